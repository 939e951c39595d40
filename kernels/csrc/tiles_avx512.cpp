#include <algorithm>
#include <cstring>

#include "tiles.h"

#if PIXELIS_X86
#include "intrinsics.h"

#define BF16_INLINE PIXELIS_TARGET_BF16 PIXELIS_INLINE

namespace pixelis {
namespace {

constexpr int kRows = 8;        // of c at once, by 32 columns: 16 of 32 registers
constexpr int64_t kDepth = 8;   // steps whose panel of b, 16 KB, stays in the first-level cache
constexpr int64_t kPairs = 16;  // of k in a step
constexpr int64_t kLine = 32;   // values in a row of a tile

BF16_INLINE __m512i pair_of(const uint16_t* from) {
  int32_t pair;
  std::memcpy(&pair, from, sizeof(pair));
  return _mm512_set1_epi32(pair);
}

// kRows rows of c by 32 columns, over some steps of a panel of a and one of b.
PIXELIS_TARGET_BF16 void multiply_rows(const uint16_t* a, const uint16_t* b, int64_t num_steps,
                                       float* c, int64_t c_stride, bool accumulate) {
  __m512 sums[kRows][2];
  for (int row = 0; row < kRows; ++row) {
    for (int half = 0; half < 2; ++half) {
      sums[row][half] =
          accumulate ? _mm512_loadu_ps(c + row * c_stride + half * 16) : _mm512_setzero_ps();
    }
  }
  for (int64_t step = 0; step < num_steps; ++step, a += kTilePair, b += kTilePair) {
    for (int64_t pair = 0; pair < kPairs; ++pair) {
      const uint16_t* right = b + pair * kLine;
      const __m512bh first = (__m512bh)_mm512_load_si512(right);
      const __m512bh second = (__m512bh)_mm512_load_si512(right + kTilePair / 2);
#pragma GCC unroll 8
      for (int row = 0; row < kRows; ++row) {
        const __m512bh left = (__m512bh)pair_of(a + row * kLine + pair * 2);
        sums[row][0] = _mm512_dpbf16_ps(sums[row][0], left, first);
        sums[row][1] = _mm512_dpbf16_ps(sums[row][1], left, second);
      }
    }
  }
  for (int row = 0; row < kRows; ++row) {
    for (int half = 0; half < 2; ++half) {
      _mm512_storeu_ps(c + row * c_stride + half * 16, sums[row][half]);
    }
  }
}

}  // namespace

void multiply_tiles_avx512(const TileMatrix& a, int64_t a_panel, int64_t a_panels,
                           const TileMatrix& b, int64_t b_panel, int64_t b_panels, float* c,
                           int64_t c_stride, bool accumulate, Ahead) {
  for (int64_t step = 0; step < a.steps; step += kDepth) {
    const int64_t num_steps = std::min(kDepth, a.steps - step);
    for (int64_t j = 0; j < b_panels; ++j) {
      const uint16_t* right = b.at(0, b_panel + j, step);
      for (int64_t row = 0; row < a_panels * kTile; row += kRows) {
        const uint16_t* left = a.at(0, a_panel + row / kTile, step) + row % kTile * kLine;
        multiply_rows(left, right, num_steps, c + row * c_stride + j * kTile, c_stride,
                      accumulate || step > 0);
      }
    }
  }
}

}  // namespace pixelis

#endif
