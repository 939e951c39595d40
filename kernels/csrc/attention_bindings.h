#pragma once

#include <pybind11/pybind11.h>

namespace pixelis {

void bind_attention(pybind11::module_& module);

}  // namespace pixelis
