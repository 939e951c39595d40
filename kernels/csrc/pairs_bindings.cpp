// numpy has no bfloat16: 16-bit integers hold its bits. Values were checked in Python, here shapes
// and strides, which C++ relies on.
#include "pairs_bindings.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <climits>
#include <optional>
#include <string>

#include "check.h"
#include "pairs.h"

namespace py = pybind11;

namespace pixelis {
namespace {

using Floats = py::array_t<float, py::array::c_style>;
using Indices = py::array_t<int64_t, py::array::c_style>;
using Flags = py::array_t<bool, py::array::c_style>;

PairRows rows_of(const char* name, const py::array& array) {
  const char kind = array.dtype().kind();
  const py::ssize_t bytes = array.dtype().itemsize();
  const bool is_bfloat16 = (kind == 'u' || kind == 'i') && bytes == 2;
  PIXELIS_CHECK((kind == 'f' && bytes == 4) || is_bfloat16,
                name << ": expected float32, or bfloat16 as 16-bit integers");
  PIXELIS_CHECK(array.ndim() == 2 && array.shape(0) <= INT_MAX && array.shape(1) >= 1,
                name << ": expected 2 dimensions, rows within 32 bits");
  PIXELIS_CHECK(array.size() == 0 || array.shape(1) == 1 || array.strides(1) == bytes,
                name << ": expected rows of packed values, got other strides");
  return {name,
          static_cast<const char*>(array.data()),
          array.shape(0),
          array.shape(1),
          array.strides(0),
          is_bfloat16};
}

template <typename T>
const T* per_row(const char* name, const std::optional<py::array_t<T, py::array::c_style>>& array,
                 int64_t rows) {
  if (!array) return nullptr;
  PIXELIS_CHECK(array->ndim() == 1 && array->shape(0) == rows,
                name << ": expected " << rows << " values");
  return array->data();
}

PairProblem problem_of(const py::array& queries, const py::array& keys,
                       const std::optional<Flags>& valid, const std::optional<Indices>& first,
                       const std::optional<Indices>& last, bool exclude_self, int threads,
                       const std::optional<std::string>& simd) {
  const PairRows query_rows = rows_of("queries_ND", queries), key_rows = rows_of("keys_MD", keys);
  PIXELIS_CHECK(
      query_rows.width == key_rows.width && query_rows.is_bfloat16 == key_rows.is_bfloat16,
      "keys_MD: expected the width and type of the queries");
  PIXELIS_CHECK(first.has_value() == last.has_value(), "first, last: expected both or neither");
  const PairMask mask{per_row("valid", valid, key_rows.rows),
                      per_row("first", first, query_rows.rows),
                      per_row("last", last, query_rows.rows), exclude_self};
  for (int64_t i = 0; mask.first != nullptr && i < query_rows.rows; ++i) {
    const bool inside = mask.first[i] >= 0 && mask.last[i] <= key_rows.rows;
    PIXELIS_CHECK(inside, "first, last: expected keys in [0, " << key_rows.rows << "]");
  }
  const LinearLevel level = simd ? parse_linear_level(*simd) : available_linear_levels().back();
  return {query_rows, key_rows, mask, level, threads};
}

py::tuple top_k_arrays(const py::array& queries, const py::array& keys, int k,
                       const std::optional<Flags>& valid, const std::optional<Indices>& first,
                       const std::optional<Indices>& last, bool exclude_self, int threads,
                       const std::optional<std::string>& simd) {
  PIXELIS_CHECK(k >= 1, "k: expected at least 1, got " << k);
  const PairProblem problem =
      problem_of(queries, keys, valid, first, last, exclude_self, threads, simd);
  Floats similarity({static_cast<py::ssize_t>(problem.queries.rows), py::ssize_t{k}});
  Indices index({static_cast<py::ssize_t>(problem.queries.rows), py::ssize_t{k}});
  float* similarity_out = similarity.mutable_data();
  int64_t* index_out = index.mutable_data();
  {
    py::gil_scoped_release unlocked;
    pairs_top_k(problem, k, similarity_out, index_out);
  }
  return py::make_tuple(similarity, index);
}

Floats vote_arrays(const py::array& queries, const py::array& keys, const Indices& answers,
                   const std::optional<Floats>& weights, int64_t num_answers, float floor,
                   const std::optional<Flags>& valid, const std::optional<Indices>& first,
                   const std::optional<Indices>& last, bool exclude_self, int threads,
                   const std::optional<std::string>& simd) {
  const PairProblem problem =
      problem_of(queries, keys, valid, first, last, exclude_self, threads, simd);
  const PairBallot ballot{per_row<int64_t>("answers", answers, problem.keys.rows),
                          per_row("weights", weights, problem.keys.rows), num_answers, floor};
  for (int64_t j = 0; j < problem.keys.rows; ++j) {
    const bool votes = problem.mask.valid == nullptr || problem.mask.valid[j];
    const bool known = ballot.answers[j] >= 0 && ballot.answers[j] < num_answers;
    PIXELIS_CHECK(!votes || known, "answers: expected ids in [0, " << num_answers << ")");
  }
  Floats votes({static_cast<py::ssize_t>(problem.queries.rows), py::ssize_t{num_answers}});
  float* out = votes.mutable_data();
  {
    py::gil_scoped_release unlocked;
    pairs_vote(problem, ballot, out);
  }
  return votes;
}

}  // namespace

void bind_pairs(py::module_& module) {
  using namespace pybind11::literals;
  module.def("pairs_top_k", &top_k_arrays, "queries"_a.noconvert(), "keys"_a.noconvert(), "k"_a,
             "valid"_a.noconvert(), "first"_a.noconvert(), "last"_a.noconvert(), "exclude_self"_a,
             "threads"_a, py::kw_only(), "simd"_a = py::none());
  module.def("pairs_vote", &vote_arrays, "queries"_a.noconvert(), "keys"_a.noconvert(),
             "answers"_a.noconvert(), "weights"_a.noconvert(), "num_answers"_a, "floor"_a,
             "valid"_a.noconvert(), "first"_a.noconvert(), "last"_a.noconvert(), "exclude_self"_a,
             "threads"_a, py::kw_only(), "simd"_a = py::none());
}

}  // namespace pixelis
