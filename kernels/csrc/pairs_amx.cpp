// Products of all pairs of bfloat16 rows on AMX: tiles of 16 keys and 16 queries, float32 sums.
#include <cstdint>

#include "pairs_bf16.h"

#if PIXELIS_X86
#include "intrinsics.h"

namespace pixelis {
namespace amx {
namespace {

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

PIXELIS_TARGET_AMX void products(const void* queries, const void* keys, int64_t padded,
                                 int num_queries, float* out) {
  static_assert(kPairKeys == 2 * kTileRows, "two tiles of keys");
  const TileConfig config;
  _tile_loadconfig(&config);
  constexpr int64_t kOutBytes = kPairQueries * sizeof(float);
  const int64_t key_bytes = padded * 2;
  const uint16_t* key = static_cast<const uint16_t*>(keys);
  for (int first = 0; first < num_queries; first += 2 * kTileRows) {
    const uint16_t* query = static_cast<const uint16_t*>(queries) + first * padded;
    const uint16_t* next = query + kTileRows * padded;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t at = 0; at < padded; at += kTileWidth) {
      _tile_loadd(4, key + at, key_bytes);
      _tile_loadd(5, key + at + kTileRows * padded, key_bytes);
      _tile_loadd(6, query + at / kTileWidth * kTileValues, 64);
      _tile_loadd(7, next + at / kTileWidth * kTileValues, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    float* to = out + first;
    _tile_stored(0, to, kOutBytes);
    _tile_stored(1, to + kTileRows, kOutBytes);
    _tile_stored(2, to + kTileRows * kPairQueries, kOutBytes);
    _tile_stored(3, to + kTileRows * kPairQueries + kTileRows, kOutBytes);
  }
  _tile_release();
}

}  // namespace

const PairKernels& pair_kernels() {
  static const PairKernels kernels = [] {
    PairKernels found = bf16::pair_kernels();
    found.products = products;
    return found;
  }();
  return kernels;
}

}  // namespace amx
}  // namespace pixelis
#endif
