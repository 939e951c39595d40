// The Python face of pairs.h.
#pragma once

#include <pybind11/pybind11.h>

namespace pixelis {

void bind_pairs(pybind11::module_& module);

}  // namespace pixelis
