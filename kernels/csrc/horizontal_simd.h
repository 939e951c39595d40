// The vector bodies of the horizontal pass and the weight layouts they read.
// A weight that does not fit the 8 or 16 bit multipliers is split into balanced digits (of base
// 256 or 4096); the digit sums are exact and recombined at the end.
#pragma once

#include <cstdint>
#include <vector>

#include "coefficients.h"
#include "simd.h"

namespace pixelis {

constexpr int kTapsPerQuad = 4;
// Pixels computed side by side: a 128-bit lane each.
constexpr int kAvx512Pixels = 4;
constexpr int kAvx2Pixels = 2;

// [groups of pixels, quads, digits, pixels, 4 channels, 4 taps]
struct Avx512Weights {
  std::vector<int8_t> values;
  int num_quads = 0;
  int num_digits = 0;  // 2 or 3
};

// [groups of pixels, quads, 2 halves, digits, pixels, 4 channels, 2 taps]
struct Avx2Weights {
  std::vector<int16_t> values;
  int num_quads = 0;
  int num_digits = 0;  // 1 or 2
};

Avx512Weights pack_avx512_weights(const Coefficients& coefficients, int num_quads);
Avx2Weights pack_avx2_weights(const Coefficients& coefficients, int num_quads);

struct HorizontalRows {
  const int* start;  // first input byte per output pixel
  int num_pixels;
  int fraction_bits;
  const uint8_t* const* in;
  uint8_t* const* out;
  int num_rows;
};

#if PIXELIS_X86
void horizontal_avx512(const HorizontalRows& rows, const Avx512Weights& weights);
void horizontal_avx2(const HorizontalRows& rows, const Avx2Weights& weights);
#endif

}  // namespace pixelis
