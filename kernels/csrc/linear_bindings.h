// Python's view of the linear statistics.
#pragma once

#include <pybind11/pybind11.h>

namespace pixelis {

void bind_linear(pybind11::module_& module);

}  // namespace pixelis
