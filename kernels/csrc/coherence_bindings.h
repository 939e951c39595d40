// The Python face of coherence.h.
#pragma once

#include <pybind11/pybind11.h>

namespace pixelis {

void bind_coherence(pybind11::module_& module);

}  // namespace pixelis
