// Attention over bfloat16 rows on AMX tiles or AVX-512 BF16, a block of scores at a time: softmax(q
// k' + bias) v.
#pragma once

#include <cstdint>

#include "simd.h"

namespace pixelis {

struct AttentionProblem {
  const uint16_t* queries;  // [queries, width], carrying their scale
  const uint16_t* keys;     // [keys, width]
  const uint16_t* values;   // [keys, value width]
  const float* bias;        // [keys], added to every query's scores; null without one
  int64_t num_queries;
  int64_t num_keys;
  int64_t width;
  int64_t value_width;
};

// Whether this processor has either.
bool has_tile_attention();
// out[queries, value width] in bfloat16. Needs has_tile_attention() and at least one key.
void tile_attention(const AttentionProblem& problem, int threads, uint16_t* out);

}  // namespace pixelis
