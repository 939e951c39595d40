// The words of the linear statistics: inputs, block sizes, sums per token, coefficients.
//
// The vocabulary is cut into blocks of kBlockRows rows; tokens lie across the lanes of a vector, so
// no sum is horizontal and a token's numbers do not depend on its neighbours or on the threads.
#pragma once

#include <cstdint>

#include "linear_level.h"

namespace pixelis {

constexpr int kBlockRows = 128;    // vocabulary rows whose logits one thread holds at once
constexpr int kBlockTokens = 512;  // tokens beside them: 270 KB of logits, half a MB of operand
constexpr int kSliceRows = 2048;   // vocabulary rows between two barriers
constexpr int kTile = 32;          // tokens and columns come in padded multiples of this

inline int64_t padded(int64_t count) { return (count + kTile - 1) / kTile * kTile; }
// Of a buffer of floats walked down its columns: an odd number of cache lines apart, or all of a
// column's lines would share a few cache sets.
inline int64_t padded_stride(int64_t count) { return padded(count) + 16; }

struct Matrix {
  const void* data;  // contiguous; float or bfloat16 bits
  int64_t rows;
  int64_t columns;
  bool is_bfloat16;
};

struct LinearHead {
  Matrix hidden;  // [tokens, width]
  Matrix weight;  // [vocabulary, width]
};

struct LinearProblem {
  LinearHead policy;
  const LinearHead* reference;  // null without one
  const int64_t* targets;       // [tokens]
  float scale;                  // 1 / temperature
  float softcap;                // 0 without one
  int threads;
  LinearLevel level;

  int64_t tokens() const { return policy.hidden.rows; }
  int64_t vocabulary() const { return policy.weight.rows; }
};

// Logits (scaled and capped) of the first `columns` vocabulary rows, [columns, stride] each;
// columns is a multiple of kTile, for a block is written in whole tiles.
struct StoredLogits {
  float* logits;
  float* deltas;  // null where they are not kept
  int64_t columns;
  int64_t stride;
};

// What a block of vocabulary rows adds to a token, e = exp(z - anchor), d = z - z_q - shift.
// All sums but the last two leave the target out or get nothing from it.
enum BlockSum {
  kAnchor,           // the target's logit, or the block's largest where that is far above
  kOthers,           // sum e
  kWeightedLogit,    // sum e (z - anchor)
  kRatio,            // sum e d
  kExcess,           // sum e (exp(-d) - 1 + d), without the far terms' exp(-d)
  kReferenceAnchor,  // of the two sums below
  kFar,              // sum exp(z_q + shift - reference anchor) over |d| >= 1
  kReference,        // the same over all rows
  kLogit,            // sum z
  kNumBlockSums
};

}  // namespace pixelis
