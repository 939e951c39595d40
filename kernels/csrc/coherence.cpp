#include "coherence.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "threads.h"

namespace pixelis {
namespace {

// Below float's smallest normal number a squared norm has lost its digits: a zero row.
constexpr float kSmallestSquare = 1.17549435e-38f;

float inverse_norm(float square) {
  return square < kSmallestSquare ? 0.0f : 1.0f / std::sqrt(square);
}

// Which trajectory each pair belongs to.
void fill_owners(const Segments& trajectories, int32_t* owner) {
  for (int b = 0; b < trajectories.count; ++b) {
    const int64_t start = trajectories.bounds[b], end = trajectories.bounds[b + 1];
    for (int64_t t = start; t < end; ++t) owner[t] = t + 1 < end ? b : -1;
  }
}

// The row after the last one of a thread's range is read a second time by the next thread.
void cosines(const Rows& steps, const RowFunctions& functions, int begin, int end,
             const CoherenceOut& out) {
  if (begin == end) return;
  float dot, square;
  functions.dot_and_square(steps[begin], steps[begin], steps.columns, &dot, &square);
  float rnorm = inverse_norm(square);
  for (int t = begin; t < end; ++t) {
    out.rnorm[t] = rnorm;
    if (t + 1 == steps.count) {
      out.cosine[t] = 0.0f;
      return;
    }
    functions.dot_and_square(steps[t], steps[t + 1], steps.columns, &dot, &square);
    const float next_rnorm = inverse_norm(square);
    out.cosine[t] = out.owner[t] >= 0 ? dot * rnorm * next_rnorm : 0.0f;
    rnorm = next_rnorm;
  }
}

void means(const Segments& trajectories, const float* weights, const Repetition& repetition,
           const CoherenceOut& out) {
  for (int b = 0; b < trajectories.count; ++b) {
    double weighted = 0.0, hinged = 0.0, total = 0.0;
    for (int64_t t = trajectories.bounds[b]; t + 1 < trajectories.bounds[b + 1]; ++t) {
      const float weight = weights != nullptr ? weights[t] : 1.0f;
      if (weight == 0.0f) continue;  // leaves the pair out, whatever its cosine
      const float over = out.cosine[t] - repetition.threshold;
      weighted += double{weight} * out.cosine[t];
      hinged += over > 0.0f ? double{weight} * over : 0.0;
      total += weight;
    }
    const double scale = total > 0.0 ? 1.0 / total : 0.0;
    out.scale[b] = static_cast<float>(scale);
    out.mean[b] = static_cast<float>(weighted * scale);
    out.hinge[b] = static_cast<float>(hinged * scale);
    out.reward[b] = static_cast<float>((weighted - repetition.weight * hinged) * scale);
  }
}

// The loss's derivative by each pair's cosine.
std::vector<float> pair_gradients(const Rows& steps, const float* weights, const float* cosine,
                                  const int32_t* owner, const float* scale,
                                  const CoherenceGradients& gradients,
                                  const Repetition& repetition) {
  std::vector<float> pairs(steps.count, 0.0f);
  for (int t = 0; t < steps.count; ++t) {
    const int32_t b = owner[t];
    if (b < 0) continue;
    const bool repeats = cosine[t] > repetition.threshold;
    float slope = 0.0f;
    if (gradients.reward) {
      slope += (repeats ? 1.0f - repetition.weight : 1.0f) * gradients.reward[b];
    }
    if (gradients.mean) slope += gradients.mean[b];
    if (gradients.hinge && repeats) slope += gradients.hinge[b];
    pairs[t] = scale[b] * (weights != nullptr ? weights[t] : 1.0f) * slope;
    if (gradients.cosine) pairs[t] += gradients.cosine[t];
  }
  return pairs;
}

// A neighbour that no pair ties to row t is not read: its NaN must stay its own.
Blend gradient_blend(const Rows& steps, const float* pairs, const float* cosine, const float* rnorm,
                     int t) {
  const float after = pairs[t], before = t > 0 ? pairs[t - 1] : 0.0f;
  Blend blend{{steps[t], steps[t], steps[t]}, {0.0f, 0.0f, 0.0f}};
  float along_self = 0.0f;
  if (after != 0.0f) {
    blend.rows[0] = steps[t + 1];
    blend.factors[0] = after * rnorm[t] * rnorm[t + 1];
    along_self += after * cosine[t];
  }
  if (before != 0.0f) {
    blend.rows[1] = steps[t - 1];
    blend.factors[1] = before * rnorm[t] * rnorm[t - 1];
    along_self += before * cosine[t - 1];
  }
  blend.factors[2] = -along_self * rnorm[t] * rnorm[t];
  return blend;
}

constexpr int64_t kRowsAtOnce = 8;

}  // namespace

void coherence_forward(const Rows& steps, const Segments& trajectories, const float* weights,
                       const Repetition& repetition, int threads, SimdLevel level,
                       const CoherenceOut& out) {
  const RowFunctions functions = row_functions(level, steps.element);
  fill_owners(trajectories, out.owner);
  parallel_ranges(steps.count, threads,
                  [&](int begin, int end) { cosines(steps, functions, begin, end, out); });
  means(trajectories, weights, repetition, out);
}

void coherence_backward(const Rows& steps, const float* weights, const float* cosine,
                        const float* rnorm, const int32_t* owner, const float* scale,
                        const CoherenceGradients& gradients, const Repetition& repetition,
                        int threads, SimdLevel level, char* out) {
  const RowFunctions functions = row_functions(level, steps.element);
  const std::vector<float> pairs =
      pair_gradients(steps, weights, cosine, owner, scale, gradients, repetition);
  const int64_t row_bytes = int64_t{steps.columns} * element_bytes(steps.element);
  parallel_ranges(steps.count, threads, [&](int begin, int end) {
    for (int t = begin; t < end; ++t) {
      const Blend blend = gradient_blend(steps, pairs.data(), cosine, rnorm, t);
      functions.blend(blend, steps.columns, out + t * row_bytes);
    }
  });
}

void segment_mean_forward(const Rows& hidden, const Segments& steps, int threads, SimdLevel level,
                          float* out) {
  const RowFunctions rows = row_functions(level, hidden.element);
  const RowFunctions floats = row_functions(level, Element::kFloat32);
  parallel_ranges(steps.count, threads, [&](int begin, int end) {
    for (int t = begin; t < end; ++t) {
      const int64_t first = steps.bounds[t], last = steps.bounds[t + 1];
      float* mean = out + int64_t{t} * hidden.columns;
      std::fill_n(mean, hidden.columns, 0.0f);
      for (int64_t token = first; token < last; token += kRowsAtOnce) {
        const int count = static_cast<int>(std::min(kRowsAtOnce, last - token));
        rows.add_rows(hidden[token], hidden.row_bytes, count, hidden.columns, mean);
      }
      const float share = first < last ? 1.0f / static_cast<float>(last - first) : 0.0f;
      floats.scale(mean, share, hidden.columns, reinterpret_cast<char*>(mean));
    }
  });
}

void segment_mean_backward(const Rows& grad, const Segments& steps, int num_tokens, Element element,
                           int threads, SimdLevel level, char* out) {
  const RowFunctions functions = row_functions(level, element);
  const int64_t row_bytes = int64_t{grad.columns} * element_bytes(element);
  const int64_t before = steps.bounds[0], after = steps.bounds[steps.count];
  std::memset(out, 0, before * row_bytes);
  std::memset(out + after * row_bytes, 0, (num_tokens - after) * row_bytes);
  parallel_ranges(steps.count, threads, [&](int begin, int end) {
    for (int t = begin; t < end; ++t) {
      const int64_t first = steps.bounds[t], last = steps.bounds[t + 1];
      if (first == last) continue;
      char* row = out + first * row_bytes;
      const float share = 1.0f / static_cast<float>(last - first);
      functions.scale(reinterpret_cast<const float*>(grad[t]), share, grad.columns, row);
      for (int64_t token = first + 1; token < last; ++token) {
        std::memcpy(out + token * row_bytes, row, row_bytes);
      }
    }
  });
}

}  // namespace pixelis
