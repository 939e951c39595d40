#include "amx_tiles.h"

#include <algorithm>

#if PIXELIS_X86
#include "intrinsics.h"

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

// Products of planes, small ones first.
struct PlanePair {
  int a, b;
};
constexpr PlanePair kPairs[] = {{2, 0}, {1, 1}, {0, 2}, {1, 0}, {0, 1}, {0, 0}};

// Some steps of a panel.
struct Steps {
  const TileMatrix* matrix;  // null for none
  int64_t panel;
  int64_t first;
  int64_t count;

  const uint16_t* plane(int index) const { return matrix->at(index, panel, first); }
};

// A step's tiles into the second-level cache.
PIXELIS_TARGET_AMX PIXELIS_INLINE void prefetch_step(const uint16_t* tiles) {
  for (int line = 0; line < kTilePair; line += 32) {
    _mm_prefetch(reinterpret_cast<const char*>(tiles + line), _MM_HINT_T1);
  }
}

// 32 by 32 elements of c in four tiles; two tiles each of a and b per step. Meanwhile the steps
// `ahead` come closer: a product that waits for each tile from the third-level cache takes twice as
// long as the tiles' own.
PIXELIS_TARGET_AMX __attribute__((noinline)) void multiply_panels(const Steps& a, const Steps& b,
                                                                  const Steps& ahead, float* c,
                                                                  int64_t c_stride,
                                                                  bool accumulate) {
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
  const int planes = a.matrix->planes, num_pairs = planes * (planes + 1) / 2;
  for (int pair = 0; pair < num_pairs; ++pair) {
    const PlanePair& of = kPairs[6 - num_pairs + pair];
    const uint16_t* left = a.plane(of.a);
    const uint16_t* right = b.plane(of.b);
    const bool has_ahead = ahead.matrix != nullptr && pair < planes;
    const uint16_t* next = has_ahead ? ahead.plane(pair) : nullptr;
    for (int64_t i = 0; i < a.count; ++i, left += kTilePair, right += kTilePair) {
      _tile_loadd(4, left, 64);
      _tile_loadd(6, right, 64);
      _tile_loadd(7, right + kTilePair / 2, 64);
      _tile_loadd(5, left + kTilePair / 2, 64);
      if (has_ahead && i < ahead.count) prefetch_step(next + i * kTilePair);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, c, row_bytes);
  _tile_stored(1, c + 16, row_bytes);
  _tile_stored(2, c + 16 * c_stride, row_bytes);
  _tile_stored(3, c + 16 * c_stride + 16, row_bytes);
}

}  // namespace

void multiply_tiles(const TileMatrix& a, int64_t a_panel, int64_t a_panels, const TileMatrix& b,
                    int64_t b_panel, int64_t b_panels, float* c, int64_t c_stride,
                    bool accumulate) {
  // A panel's steps of a stay in the first-level cache while b streams from the second.
  const int64_t depth = a.planes == 1 ? 32 : a.planes == 2 ? 16 : 8;
  const ConfiguredTiles tiles;
  for (int64_t step = 0; step < a.steps; step += depth) {
    const int64_t count = std::min(depth, a.steps - step);
    const int64_t next_step = step + count, next_count = std::min(depth, a.steps - next_step);
    for (int64_t i = 0; i < a_panels; ++i) {
      for (int64_t j = 0; j < b_panels; ++j) {
        // What the next call is the first to read.
        Steps ahead{nullptr, 0, 0, 0};
        if (j + 1 == b_panels && i + 1 < a_panels) ahead = {&a, a_panel + i + 1, step, count};
        if (j + 1 == b_panels && i + 1 == a_panels) ahead = {&b, b_panel, next_step, next_count};
        if (j + 1 < b_panels && i == 0) ahead = {&b, b_panel + j + 1, step, count};
        multiply_panels({&a, a_panel + i, step, count}, {&b, b_panel + j, step, count}, ahead,
                        c + i * kTile * c_stride + j * kTile, c_stride, accumulate || step > 0);
      }
    }
  }
}

}  // namespace pixelis

#endif
