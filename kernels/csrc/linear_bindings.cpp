#include "linear_bindings.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "check.h"
#include "linear_backward.h"
#include "linear_forward.h"

namespace py = pybind11;

namespace pixelis {
namespace {

using Floats = py::array_t<float, 0>;
using Ids = py::array_t<int64_t, 0>;

void check_contiguous(const char* name, const py::array& array, int ndim) {
  PIXELIS_CHECK(array.ndim() == ndim,
                name << ": expected " << ndim << " dimensions, got " << array.ndim());
  PIXELIS_CHECK((array.flags() & py::array::c_style) != 0, name << ": expected C order");
}

// float32, or int16 that holds the bits of bfloat16.
Matrix matrix_of(const char* name, const py::array& array) {
  check_contiguous(name, array, 2);
  const bool is_bfloat16 = py::isinstance<py::array_t<int16_t>>(array);
  PIXELIS_CHECK(is_bfloat16 || py::isinstance<Floats>(array),
                name << ": expected float32, or bfloat16 as int16");
  return {array.data(), array.shape(0), array.shape(1), is_bfloat16};
}

LinearHead head_of(const py::array& hidden, const py::array& weight) {
  const LinearHead head{matrix_of("hidden", hidden), matrix_of("weight", weight)};
  PIXELIS_CHECK(head.hidden.columns == head.weight.columns &&
                    head.hidden.is_bfloat16 == head.weight.is_bfloat16,
                "weight: expected hidden's width and dtype");
  return head;
}

struct Arguments {
  LinearHead reference;
  LinearProblem problem;
  StoredLogits stored;
};

float* stored_data(const char* name, const Floats& array, int64_t tokens) {
  check_contiguous(name, array, 2);
  PIXELIS_CHECK(array.shape(0) % kTile == 0,
                name << ": expected a multiple of " << kTile << " rows, got " << array.shape(0));
  PIXELIS_CHECK(
      array.shape(0) == 0 || array.shape(1) >= padded_stride(tokens),
      name << ": expected rows of " << padded_stride(tokens) << ", got " << array.shape(1));
  return array.shape(0) == 0 ? nullptr : const_cast<float*>(array.data());
}

void fill_arguments(Arguments& to, const py::array& hidden, const py::array& weight,
                    const Ids& targets, const std::optional<py::array>& reference_hidden,
                    const std::optional<py::array>& reference_weight, float scale, float softcap,
                    const Floats& logits, const Floats& deltas, int threads,
                    const std::optional<std::string>& simd) {
  const LinearHead policy = head_of(hidden, weight);
  check_contiguous("targets", targets, 1);
  PIXELIS_CHECK(targets.shape(0) == policy.hidden.rows, "targets: expected one per token");
  for (py::ssize_t i = 0; i < targets.shape(0); ++i) {
    PIXELIS_CHECK(
        targets.at(i) >= 0 && targets.at(i) < policy.weight.rows,
        "targets: expected ids in [0, " << policy.weight.rows << "), got " << targets.at(i));
  }
  if (reference_hidden && reference_weight) {
    to.reference = head_of(*reference_hidden, *reference_weight);
    PIXELIS_CHECK(to.reference.hidden.rows == policy.hidden.rows &&
                      to.reference.weight.rows == policy.weight.rows &&
                      to.reference.weight.is_bfloat16 == policy.weight.is_bfloat16,
                  "reference: expected the policy's tokens, vocabulary and dtype");
  }
  PIXELIS_CHECK(threads >= 1, "threads: expected at least 1, got " << threads);
  const LinearLevel level = simd ? parse_linear_level(*simd) : available_linear_levels().back();
  to.problem = {
      policy, reference_hidden ? &to.reference : nullptr, targets.data(), scale, softcap, threads,
      level};
  to.stored = {stored_data("logits", logits, policy.hidden.rows),
               stored_data("deltas", deltas, policy.hidden.rows), logits.shape(0), logits.shape(1)};
  PIXELIS_CHECK(deltas.shape(0) == 0 ||
                    (deltas.shape(0) == logits.shape(0) && deltas.shape(1) == logits.shape(1)),
                "deltas: expected the shape of logits, or no rows");
}

// statistics [9, tokens]: those of problem.py, then the target's logit and its delta.
void forward(const py::array& hidden, const py::array& weight, const Ids& targets,
             const std::optional<py::array>& reference_hidden,
             const std::optional<py::array>& reference_weight, float scale, float softcap,
             const Floats& logits, const Floats& deltas, Floats statistics, int threads,
             const std::optional<std::string>& simd) {
  Arguments arguments{};
  fill_arguments(arguments, hidden, weight, targets, reference_hidden, reference_weight, scale,
                 softcap, logits, deltas, threads, simd);
  const int64_t tokens = arguments.problem.tokens();
  check_contiguous("statistics", statistics, 2);
  PIXELIS_CHECK(statistics.shape(0) == 9 && statistics.shape(1) == tokens,
                "statistics: expected shape (9, " << tokens << ")");
  float* to = statistics.mutable_data();
  const StatisticsView out{to,
                           to + tokens,
                           to + 2 * tokens,
                           to + 3 * tokens,
                           to + 4 * tokens,
                           to + 5 * tokens,
                           to + 6 * tokens,
                           to + 7 * tokens,
                           to + 8 * tokens};
  py::gil_scoped_release unlocked;
  linear_forward(arguments.problem, arguments.stored, out);
}

void* output_data(const char* name, const std::optional<py::array>& out, const Matrix& like) {
  if (!out) return nullptr;
  const Matrix matrix = matrix_of(name, *out);
  PIXELIS_CHECK(matrix.rows == like.rows && matrix.columns == like.columns &&
                    matrix.is_bfloat16 == like.is_bfloat16,
                name << ": expected the shape and dtype of what it is the gradient of");
  return const_cast<void*>(matrix.data);
}

// coefficients [6, tokens]: logprob, then the five of coefficients.py.
void backward(const py::array& hidden, const py::array& weight, const Ids& targets,
              const std::optional<py::array>& reference_hidden,
              const std::optional<py::array>& reference_weight, float scale, float softcap,
              const Floats& logits, const Floats& deltas, const Floats& coefficients, bool plain,
              const std::optional<py::array>& hidden_gradient,
              const std::optional<py::array>& weight_gradient, int threads,
              const std::optional<std::string>& simd) {
  Arguments arguments{};
  fill_arguments(arguments, hidden, weight, targets, reference_hidden, reference_weight, scale,
                 softcap, logits, deltas, threads, simd);
  const LinearProblem& problem = arguments.problem;
  const int64_t tokens = problem.tokens();
  check_contiguous("coefficients", coefficients, 2);
  PIXELIS_CHECK(coefficients.shape(0) == 6 && coefficients.shape(1) == tokens,
                "coefficients: expected shape (6, " << tokens << ")");
  const float* from = coefficients.data();
  const CoefficientsView view{from,
                              from + tokens,
                              from + 2 * tokens,
                              from + 3 * tokens,
                              from + 4 * tokens,
                              from + 5 * tokens,
                              plain};
  const GradientOutputs out{output_data("hidden_gradient", hidden_gradient, problem.policy.hidden),
                            output_data("weight_gradient", weight_gradient, problem.policy.weight)};
  py::gil_scoped_release unlocked;
  linear_backward(problem, arguments.stored, view, out);
}

std::vector<std::string> level_names() {
  std::vector<std::string> names;
  for (const LinearLevel level : available_linear_levels()) {
    names.emplace_back(linear_level_name(level));
  }
  return names;
}

}  // namespace

void bind_linear(py::module_& module) {
  using namespace pybind11::literals;
  module.def("linear_levels", &level_names, "Levels linear_* can run on here, lowest first.");
  module.def("linear_forward", &forward, "hidden"_a.noconvert(), "weight"_a.noconvert(),
             "targets"_a.noconvert(), py::kw_only(), "reference_hidden"_a, "reference_weight"_a,
             "scale"_a, "softcap"_a, "logits"_a.noconvert(), "deltas"_a.noconvert(),
             "statistics"_a.noconvert(), "threads"_a, "simd"_a = py::none());
  module.def("linear_backward", &backward, "hidden"_a.noconvert(), "weight"_a.noconvert(),
             "targets"_a.noconvert(), py::kw_only(), "reference_hidden"_a, "reference_weight"_a,
             "scale"_a, "softcap"_a, "logits"_a.noconvert(), "deltas"_a.noconvert(),
             "coefficients"_a.noconvert(), "plain"_a, "hidden_gradient"_a, "weight_gradient"_a,
             "threads"_a, "simd"_a = py::none());
}

}  // namespace pixelis
