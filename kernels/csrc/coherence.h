// Cosine of neighbouring rows, its mean per trajectory, the gradient of both; and the segment mean.
// Rows are float or bfloat16, sums are float in 32 lanes that every level adds up in one order, so
// neither the level nor the number of threads changes a result.
#pragma once

#include <cstdint>

#include "coherence_rows.h"
#include "simd.h"

namespace pixelis {

struct Rows {
  const char* data;
  int64_t row_bytes;  // 0 when all rows are the same one
  int count;
  int columns;
  Element element;

  const char* operator[](int64_t row) const { return data + row * row_bytes; }
};

// Where trajectories, or steps, begin: count + 1 values that never fall.
struct Segments {
  const int64_t* bounds;
  int count;
};

struct Repetition {
  float threshold;
  float weight;
};

struct CoherenceOut {
  float* reward;  // per trajectory, as are mean, hinge and scale
  float* mean;
  float* hinge;
  float* scale;   // 1 / the sum of its weights, 0 without any
  float* cosine;  // per step, as are rnorm and owner
  float* rnorm;
  int32_t* owner;  // the trajectory of pair (t, t + 1), -1 without one
};

// weights, per step, may be null: all 1.
void coherence_forward(const Rows& steps, const Segments& trajectories, const float* weights,
                       const Repetition& repetition, int threads, SimdLevel level,
                       const CoherenceOut& out);

struct CoherenceGradients {  // each may be null
  const float* reward;
  const float* mean;
  const float* hinge;
  const float* cosine;
};

// forward's outputs of the same names come back in; out has the element of steps, rows packed.
void coherence_backward(const Rows& steps, const float* weights, const float* cosine,
                        const float* rnorm, const int32_t* owner, const float* scale,
                        const CoherenceGradients& gradients, const Repetition& repetition,
                        int threads, SimdLevel level, char* out);

// out: [steps.count, hidden.columns], packed.
void segment_mean_forward(const Rows& hidden, const Segments& steps, int threads, SimdLevel level,
                          float* out);

// out: [num_tokens, grad.columns] of element, packed; zeros outside the segments.
void segment_mean_backward(const Rows& grad, const Segments& steps, int num_tokens, Element element,
                           int threads, SimdLevel level, char* out);

}  // namespace pixelis
