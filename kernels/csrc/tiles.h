// Operands cut into tiles of bfloat16 as AMX takes them, and their products.
//
// A panel is 32 rows of a left operand or 32 columns of a right one; per 32 values of k it holds
// two tiles of 16 rows of 64 bytes side by side in memory:
//   left   tile[row, k]            16 rows of a by 32 k
//   right  tile[k / 2, n, k % 2]   16 pairs of k by 16 columns of b
// bfloat16 operands are one plane. float32 ones are three for logits, value = high + middle + low,
// each rounded from what the ones before left over: 24 bits of significand, as many as float32 has.
// Gradients take two, 16 bits, for half the products.
#pragma once

#include <cstdint>

#include "linear_product.h"

#if PIXELIS_X86

namespace pixelis {

constexpr int64_t kTilePair = 1024;  // bfloat16 values in the two tiles of a step

struct TileMatrix {
  uint16_t* data;
  int planes;     // 1, 2 or 3
  int64_t steps;  // padded k / 32

  uint16_t* at(int plane, int64_t panel, int64_t step) const {
    return data + ((panel * planes + plane) * steps + step) * kTilePair;
  }
};

inline TileMatrix tile_matrix(void* data, int planes, int64_t k) {
  return {static_cast<uint16_t*>(data), planes, padded(k) / kTile};
}

inline int64_t tile_bytes(int planes, int64_t panels, int64_t k) {
  return planes * panels * padded(k) / kTile * kTilePair * int64_t{sizeof(uint16_t)};
}

// c[32 · a_panels, 32 · b_panels] (+)= a b, from the panels given on. Of three planes the products
// high·high, high·middle, middle·high, middle·middle, high·low and low·high are summed, of two the
// first three: what is left out is as small as the last plane's rounding. Meanwhile `ahead` comes
// into the second-level cache, a few lines a step.
using MultiplyTiles = void (*)(const TileMatrix& a, int64_t a_panel, int64_t a_panels,
                               const TileMatrix& b, int64_t b_panel, int64_t b_panels, float* c,
                               int64_t c_stride, bool accumulate, Ahead ahead);

void multiply_tiles_amx(const TileMatrix& a, int64_t a_panel, int64_t a_panels, const TileMatrix& b,
                        int64_t b_panel, int64_t b_panels, float* c, int64_t c_stride,
                        bool accumulate, Ahead ahead);
// On AVX-512 BF16. Of one plane: where six products stand for one, float32's own are faster.
void multiply_tiles_avx512(const TileMatrix& a, int64_t a_panel, int64_t a_panels,
                           const TileMatrix& b, int64_t b_panel, int64_t b_panels, float* c,
                           int64_t c_stride, bool accumulate, Ahead ahead);

}  // namespace pixelis

#endif
