#include <algorithm>

#include "tiles.h"

#if PIXELIS_X86
#include "intrinsics.h"

#define AMX_INLINE PIXELIS_TARGET_AMX PIXELIS_INLINE

namespace pixelis {
namespace {

struct alignas(64) TileConfig {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

// Eight tiles of 16 rows of 64 bytes. Static: the intrinsic tells the compiler of 8 bytes only.
const TileConfig kConfig{
    1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

class ConfiguredTiles {
 public:
  PIXELIS_TARGET_AMX ConfiguredTiles() { _tile_loadconfig(&kConfig); }
  PIXELIS_TARGET_AMX ~ConfiguredTiles() { _tile_release(); }
  ConfiguredTiles(const ConfiguredTiles&) = delete;
  ConfiguredTiles& operator=(const ConfiguredTiles&) = delete;
};

constexpr int64_t kLineBytes = 64;

// A quarter of the two tiles a step further on, into the first-level cache. Where two threads share
// a core, its tile loads do not overlap its tile products, and every miss is waited for.
AMX_INLINE void prefetch_quarter(const uint16_t* tiles, int quarter) {
  constexpr int kLine = 32, kLines = kTilePair / kLine / 4;
  const uint16_t* from = tiles + kTilePair + quarter * kLines * kLine;
#pragma GCC unroll 8
  for (int line = 0; line < kLines; ++line) {
    // By hand: the compiler moves or drops the intrinsic, whose place between the tiles matters.
    asm volatile("prefetcht0 %0" ::"m"(from[line * kLine]));
  }
}

// Adds the products of one step's tiles: 4 and 5 of a, 6 and 7 of b. What is not loaded is there.
template <bool kLoadsA, bool kLoadsB>
AMX_INLINE void multiply_step(const uint16_t* a, const uint16_t* b) {
  if (kLoadsA) _tile_loadd(4, a, 64);
  if (kLoadsB) _tile_loadd(6, b, 64);
  if (kLoadsA) prefetch_quarter(a, 0);
  if (kLoadsB) prefetch_quarter(b, 0);
  _tile_dpbf16ps(0, 4, 6);
  if (kLoadsB) _tile_loadd(7, b + kTilePair / 2, 64);
  if (kLoadsA) prefetch_quarter(a, 1);
  if (kLoadsB) prefetch_quarter(b, 1);
  _tile_dpbf16ps(1, 4, 7);
  if (kLoadsA) _tile_loadd(5, a + kTilePair / 2, 64);
  if (kLoadsA) prefetch_quarter(a, 2);
  if (kLoadsB) prefetch_quarter(b, 2);
  _tile_dpbf16ps(2, 5, 6);
  if (kLoadsA) prefetch_quarter(a, 3);
  if (kLoadsB) prefetch_quarter(b, 3);
  _tile_dpbf16ps(3, 5, 7);
}

// The planes' products of one step, in an order that loads one side's tiles at a time.
template <int kPlanes>
AMX_INLINE void multiply_planes(const uint16_t* const* a, const uint16_t* const* b,
                                int64_t offset) {
  if constexpr (kPlanes == 1) {
    multiply_step<true, true>(a[0] + offset, b[0] + offset);
  } else if constexpr (kPlanes == 2) {
    multiply_step<true, true>(a[0] + offset, b[1] + offset);
    multiply_step<false, true>(nullptr, b[0] + offset);
    multiply_step<true, false>(a[1] + offset, nullptr);
  } else {
    multiply_step<true, true>(a[0] + offset, b[2] + offset);
    multiply_step<false, true>(nullptr, b[1] + offset);
    multiply_step<true, false>(a[1] + offset, nullptr);
    multiply_step<false, true>(nullptr, b[0] + offset);
    multiply_step<true, false>(a[0] + offset, nullptr);
    multiply_step<true, false>(a[2] + offset, nullptr);
  }
}

// 32 by 32 elements of c in four tiles, over some steps of a panel of a and one of b.
template <int kPlanes>
PIXELIS_TARGET_AMX __attribute__((noinline)) void multiply_panels(
    const uint16_t* const* a, const uint16_t* const* b, int64_t num_steps, float* c,
    int64_t c_stride, bool accumulate, const char* ahead, int64_t ahead_lines) {
  asm volatile("" ::: "memory");  // the tile loads do not tell the compiler what they read
  const int64_t row_bytes = c_stride * int64_t{sizeof(float)};
  if (accumulate) {
    _tile_loadd(0, c, row_bytes);
    _tile_loadd(1, c + 16, row_bytes);
    _tile_loadd(2, c + 16 * c_stride, row_bytes);
    _tile_loadd(3, c + 16 * c_stride + 16, row_bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t step = 0; step < num_steps; ++step) {
    multiply_planes<kPlanes>(a, b, step * kTilePair);
    for (int64_t line = 0; line < ahead_lines; ++line, ahead += kLineBytes) {
      asm volatile("prefetcht1 %0" ::"m"(*ahead));
    }
  }
  _tile_stored(0, c, row_bytes);
  _tile_stored(1, c + 16, row_bytes);
  _tile_stored(2, c + 16 * c_stride, row_bytes);
  _tile_stored(3, c + 16 * c_stride + 16, row_bytes);
}

template <int kPlanes>
void multiply_all(const TileMatrix& a, int64_t a_panel, int64_t a_panels, const TileMatrix& b,
                  int64_t b_panel, int64_t b_panels, float* c, int64_t c_stride, bool accumulate,
                  Ahead ahead) {
  constexpr int64_t kDepth = 32 / kPlanes;
  const int64_t all_steps = a_panels * b_panels * a.steps;
  const int64_t lines = ahead.bytes / kLineBytes / all_steps;
  for (int64_t step = 0; step < a.steps; step += kDepth) {
    const int64_t num_steps = std::min(kDepth, a.steps - step);
    for (int64_t j = 0; j < b_panels; ++j) {
      for (int64_t i = 0; i < a_panels; ++i) {
        const uint16_t *left[kPlanes], *right[kPlanes];
        for (int plane = 0; plane < kPlanes; ++plane) {
          left[plane] = a.at(plane, a_panel + i, step);
          right[plane] = b.at(plane, b_panel + j, step);
        }
        multiply_panels<kPlanes>(left, right, num_steps, c + i * kTile * c_stride + j * kTile,
                                 c_stride, accumulate || step > 0, ahead.data, lines);
        ahead.data += num_steps * lines * kLineBytes;
      }
    }
  }
}

}  // namespace

void multiply_tiles_amx(const TileMatrix& a, int64_t a_panel, int64_t a_panels, const TileMatrix& b,
                        int64_t b_panel, int64_t b_panels, float* c, int64_t c_stride,
                        bool accumulate, Ahead ahead) {
  const ConfiguredTiles tiles;
  const auto multiply = a.planes == 1   ? multiply_all<1>
                        : a.planes == 2 ? multiply_all<2>
                                        : multiply_all<3>;
  multiply(a, a_panel, a_panels, b, b_panel, b_panels, c, c_stride, accumulate, ahead);
}

}  // namespace pixelis

#endif
