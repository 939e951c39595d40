// The inner loops of pairs.cpp, one table per instruction set.
#pragma once

#include <cstdint>

#include "linear_level.h"

namespace pixelis {

constexpr int kPairQueries = 128;  // packed together: half a megabyte of them at width 1024
constexpr int kPairKeys = 32;      // packed together; 32 times 128 products fill 16 KB

struct PairKernels {
  bool packs_bfloat16;  // rows are packed as bfloat16 bits, else as floats
  int width_multiple;   // packed rows are padded with zeros to it

  // Copies a row, padded, and returns the sum of its squares.
  float (*pack)(const void* row, bool is_bfloat16, int64_t width, int64_t padded, void* out);
  // Reorders kPairQueries packed rows for `products`; null: they stay as they are.
  void (*reorder)(const void* packed, int64_t padded, void* out);
  // out[key][query] for kPairKeys keys and the first `queries` queries, kPairQueries apart.
  void (*products)(const void* queries, const void* keys, int64_t padded, int num_queries,
                   float* out);
  // similarity = product · (query_scale · key_scale), in place; lists the queries where it exceeds
  // the threshold and returns how many.
  int (*exceeding)(float* row, const float* query_scale, float key_scale, const float* threshold,
                   int num_queries, int* exceeding);
  // votes += weight · max(similarity - floor, 0).
  void (*add_shares)(const float* row, const float* query_scale, float key_scale, float floor,
                     float weight, int num_queries, float* votes);
};

const PairKernels& pair_kernels(LinearLevel level, bool is_bfloat16);

namespace baseline {
const PairKernels& pair_kernels();
}
namespace avx2 {
const PairKernels& pair_kernels();
}
namespace avx512 {
const PairKernels& pair_kernels();
}
namespace bf16 {
const PairKernels& pair_kernels();
}
namespace amx {
const PairKernels& pair_kernels();
}

}  // namespace pixelis
