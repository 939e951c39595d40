// numpy has no bfloat16: 16-bit integers hold its bits. Outputs come from the caller; values were
// checked in Python, here shapes and strides, which C++ relies on.
#include "coherence_bindings.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <climits>
#include <optional>
#include <string>

#include "check.h"
#include "coherence.h"

namespace py = pybind11;

namespace pixelis {
namespace {

using FloatArray = py::array_t<float, py::array::c_style>;
using IndexArray = py::array_t<int64_t, py::array::c_style>;
using OwnerArray = py::array_t<int32_t, py::array::c_style>;
using OptionalFloats = std::optional<FloatArray>;

SimdLevel level_of(const std::optional<std::string>& name) {
  return name ? parse_simd_level(*name) : best_simd_level();
}

Element element_of(const char* name, const py::array& array) {
  const char kind = array.dtype().kind();
  const py::ssize_t bytes = array.dtype().itemsize();
  const bool is_bfloat16 = (kind == 'u' || kind == 'i') && bytes == 2;
  PIXELIS_CHECK((kind == 'f' && bytes == 4) || is_bfloat16,
                name << ": expected float32, or bfloat16 as 16-bit integers");
  return is_bfloat16 ? Element::kBfloat16 : Element::kFloat32;
}

Rows rows_of(const char* name, const py::array& array) {
  const Element element = element_of(name, array);
  PIXELIS_CHECK(array.ndim() == 2 && array.shape(0) <= INT_MAX && array.shape(1) <= INT_MAX / 4,
                name << ": expected 2 dimensions within 32 bits");
  const bool is_packed = array.shape(0) == 0 || array.strides(1) == element_bytes(element);
  PIXELIS_CHECK(is_packed, name << ": expected rows of packed values, got other strides");
  return {static_cast<const char*>(array.data()), array.strides(0),
          static_cast<int>(array.shape(0)), static_cast<int>(array.shape(1)), element};
}

void check_rows(const char* name, const py::array& array, py::ssize_t rows, py::ssize_t columns) {
  const bool fits = array.ndim() == 2 && array.shape(0) == rows && array.shape(1) == columns &&
                    (array.flags() & py::array::c_style) != 0;
  PIXELIS_CHECK(fits, name << ": expected packed (" << rows << ", " << columns << ")");
}

template <typename Array>
void check_length(const char* name, const Array& array, py::ssize_t length) {
  PIXELIS_CHECK(array.ndim() == 1 && array.shape(0) == length,
                name << ": expected " << length << " values");
}

Segments segments_of(const IndexArray& bounds) {
  PIXELIS_CHECK(bounds.ndim() == 1 && bounds.shape(0) >= 1 && bounds.shape(0) <= INT_MAX,
                "bounds: expected 1 dimension with at least one value");
  return {bounds.data(), static_cast<int>(bounds.shape(0)) - 1};
}

const float* data_of(const char* name, const OptionalFloats& array, py::ssize_t length) {
  if (!array) return nullptr;
  check_length(name, *array, length);
  return array->data();
}

void coherence_forward_arrays(const py::array& steps, const IndexArray& bounds,
                              const OptionalFloats& weights, float threshold,
                              float repetition_weight, FloatArray reward, FloatArray mean,
                              FloatArray hinge, FloatArray cosine, FloatArray rnorm,
                              OwnerArray owner, FloatArray scale, int threads,
                              const std::optional<std::string>& simd) {
  const Rows rows = rows_of("steps", steps);
  const Segments trajectories = segments_of(bounds);
  for (const FloatArray* array : {&reward, &mean, &hinge, &scale}) {
    check_length("out", *array, trajectories.count);
  }
  check_length("cosine", cosine, rows.count);
  check_length("rnorm", rnorm, rows.count);
  check_length("owner", owner, rows.count);
  const CoherenceOut out{reward.mutable_data(), mean.mutable_data(),   hinge.mutable_data(),
                         scale.mutable_data(),  cosine.mutable_data(), rnorm.mutable_data(),
                         owner.mutable_data()};
  const float* pair_weights = data_of("weights", weights, rows.count);
  const SimdLevel level = level_of(simd);
  py::gil_scoped_release unlocked;
  coherence_forward(rows, trajectories, pair_weights, {threshold, repetition_weight}, threads,
                    level, out);
}

void coherence_backward_arrays(const py::array& steps, const OptionalFloats& weights,
                               const FloatArray& cosine, const FloatArray& rnorm,
                               const OwnerArray& owner, const FloatArray& scale,
                               const OptionalFloats& grad_reward, const OptionalFloats& grad_mean,
                               const OptionalFloats& grad_hinge, const OptionalFloats& grad_cosine,
                               float threshold, float repetition_weight, py::array out, int threads,
                               const std::optional<std::string>& simd) {
  const Rows rows = rows_of("steps", steps);
  check_length("cosine", cosine, rows.count);
  check_length("rnorm", rnorm, rows.count);
  check_length("owner", owner, rows.count);
  check_rows("out", out, rows.count, rows.columns);
  PIXELIS_CHECK(element_of("out", out) == rows.element, "out: expected the dtype of steps");
  const py::ssize_t trajectories = scale.shape(0);
  const CoherenceGradients gradients{data_of("grad_reward", grad_reward, trajectories),
                                     data_of("grad_mean", grad_mean, trajectories),
                                     data_of("grad_hinge", grad_hinge, trajectories),
                                     data_of("grad_cosine", grad_cosine, rows.count)};
  const float* pair_weights = data_of("weights", weights, rows.count);
  const SimdLevel level = level_of(simd);
  char* bytes = static_cast<char*>(out.mutable_data());
  py::gil_scoped_release unlocked;
  coherence_backward(rows, pair_weights, cosine.data(), rnorm.data(), owner.data(), scale.data(),
                     gradients, {threshold, repetition_weight}, threads, level, bytes);
}

void segment_mean_forward_arrays(const py::array& hidden, const IndexArray& bounds, FloatArray out,
                                 int threads, const std::optional<std::string>& simd) {
  const Rows rows = rows_of("hidden", hidden);
  const Segments steps = segments_of(bounds);
  check_rows("out", out, steps.count, rows.columns);
  const SimdLevel level = level_of(simd);
  float* means = out.mutable_data();
  py::gil_scoped_release unlocked;
  segment_mean_forward(rows, steps, threads, level, means);
}

void segment_mean_backward_arrays(const FloatArray& grad, const IndexArray& bounds, py::array out,
                                  int threads, const std::optional<std::string>& simd) {
  const Rows rows = rows_of("grad", grad);
  const Segments steps = segments_of(bounds);
  PIXELIS_CHECK(rows.count == steps.count, "grad: expected " << steps.count << " rows");
  PIXELIS_CHECK(out.ndim() == 2 && out.shape(0) <= INT_MAX, "out: expected 2 dimensions");
  const Element element = element_of("out", out);
  check_rows("out", out, out.shape(0), rows.columns);
  const SimdLevel level = level_of(simd);
  const int num_tokens = static_cast<int>(out.shape(0));
  char* bytes = static_cast<char*>(out.mutable_data());
  py::gil_scoped_release unlocked;
  segment_mean_backward(rows, steps, num_tokens, element, threads, level, bytes);
}

}  // namespace

void bind_coherence(py::module_& module) {
  using namespace pybind11::literals;
  module.def("coherence_forward", &coherence_forward_arrays, "steps"_a.noconvert(),
             "bounds"_a.noconvert(), "weights"_a.noconvert(), "threshold"_a, "repetition_weight"_a,
             "reward"_a.noconvert(), "mean"_a.noconvert(), "hinge"_a.noconvert(),
             "cosine"_a.noconvert(), "rnorm"_a.noconvert(), "owner"_a.noconvert(),
             "scale"_a.noconvert(), "threads"_a, py::kw_only(), "simd"_a = py::none());
  module.def("coherence_backward", &coherence_backward_arrays, "steps"_a.noconvert(),
             "weights"_a.noconvert(), "cosine"_a.noconvert(), "rnorm"_a.noconvert(),
             "owner"_a.noconvert(), "scale"_a.noconvert(), "grad_reward"_a.noconvert(),
             "grad_mean"_a.noconvert(), "grad_hinge"_a.noconvert(), "grad_cosine"_a.noconvert(),
             "threshold"_a, "repetition_weight"_a, "out"_a.noconvert(), "threads"_a, py::kw_only(),
             "simd"_a = py::none());
  module.def("segment_mean_forward", &segment_mean_forward_arrays, "hidden"_a.noconvert(),
             "bounds"_a.noconvert(), "out"_a.noconvert(), "threads"_a, py::kw_only(),
             "simd"_a = py::none());
  module.def("segment_mean_backward", &segment_mean_backward_arrays, "grad"_a.noconvert(),
             "bounds"_a.noconvert(), "out"_a.noconvert(), "threads"_a, py::kw_only(),
             "simd"_a = py::none());
}

}  // namespace pixelis
