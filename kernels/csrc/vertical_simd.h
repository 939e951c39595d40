// The vector bodies of the vertical pass.
#pragma once

#include <cstdint>

#include "simd.h"

namespace pixelis {

struct VerticalRow {
  const uint8_t* const* rows;  // a multiple of the group's taps; spare ones have zero weights
  const int32_t* weights;      // [groups, digits]
  int num_groups;
  int num_digits;
  int fraction_bits;
  int num_bytes;
  uint8_t* out;
};

#if PIXELIS_X86
void vertical_avx512(const VerticalRow& row);
// num_bytes must be at least kAvx2Block.
constexpr int kAvx2Block = 32;
void vertical_avx2(const VerticalRow& row);
#endif

}  // namespace pixelis
