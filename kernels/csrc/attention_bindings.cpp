// numpy has no bfloat16: 16-bit integers hold its bits. Values were checked in Python, here shapes
// and strides, which C++ relies on.
#include "attention_bindings.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>

#include "attention.h"
#include "check.h"

namespace py = pybind11;

namespace pixelis {
namespace {

using Halves = py::array_t<int16_t, py::array::c_style>;
using Floats = py::array_t<float, py::array::c_style>;

const uint16_t* bits(const Halves& array) {
  return reinterpret_cast<const uint16_t*>(array.data());
}

Halves attention_array(const Halves& queries, const Halves& keys, const Halves& values,
                       const std::optional<Floats>& bias, int threads) {
  PIXELIS_CHECK(queries.ndim() == 2 && keys.ndim() == 2 && values.ndim() == 2,
                "queries, keys, values: expected 2 dimensions each");
  const AttentionProblem problem{
      bits(queries),    bits(keys),    bits(values),  bias ? bias->data() : nullptr,
      queries.shape(0), keys.shape(0), keys.shape(1), values.shape(1)};
  PIXELIS_CHECK(problem.num_keys >= 1 && queries.shape(1) == problem.width &&
                    values.shape(0) == problem.num_keys &&
                    (!bias || (bias->ndim() == 1 && bias->shape(0) == problem.num_keys)),
                "keys: expected at least one, as wide as the queries, a value and a bias for each");
  Halves out({queries.shape(0), values.shape(1)});
  uint16_t* to = reinterpret_cast<uint16_t*>(out.mutable_data());
  py::gil_scoped_release unlocked;
  tile_attention(problem, threads, to);
  return out;
}

}  // namespace

void bind_attention(py::module_& module) {
  using namespace pybind11::literals;
  module.def("has_tile_attention", &has_tile_attention,
             "Whether this CPU has AMX tiles or AVX-512 BF16.");
  module.def("tile_attention", &attention_array, "queries"_a.noconvert(), "keys"_a.noconvert(),
             "values"_a.noconvert(), "bias"_a.noconvert(), "threads"_a);
}

}  // namespace pixelis
