// Products of all pairs of bfloat16 rows on AMX: tiles of 16 keys and 16 queries, float32 sums.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "pairs_kernels.h"

#if PIXELIS_X86
#include "intrinsics.h"

namespace pixelis {
namespace amx {
namespace {

constexpr int kTileRows = 16;
constexpr int kTileWidth = 32;                       // bfloat16 values in a row of a tile
constexpr int kTileValues = kTileRows * kTileWidth;  // 1 KB

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

PIXELIS_TARGET_AMX float pack(const void* row, bool, int64_t width, int64_t padded, void* out) {
  const uint16_t* from = static_cast<const uint16_t*>(row);
  uint16_t* to = static_cast<uint16_t*>(out);
  __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
  for (int64_t at = 0; at < padded; at += kTileWidth) {
    const int64_t left = std::min<int64_t>(width - at, kTileWidth);
    const __mmask32 mask = left == kTileWidth ? ~0U : (1U << left) - 1;
    const __m512i bits = _mm512_maskz_loadu_epi16(mask, from + at);
    _mm512_storeu_si512(to + at, bits);
    const __m512 high = _mm512_castsi512_ps(
        _mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int32_t>(0xffff0000U))));
    const __m512 low = _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
    even = _mm512_fmadd_ps(low, low, even);
    odd = _mm512_fmadd_ps(high, high, odd);
  }
  return _mm512_reduce_add_ps(_mm512_add_ps(even, odd));
}

// A tile of queries holds pairs of values: [pair][query][2], 16 pairs of 16 queries.
void reorder(const void* packed, int64_t padded, void* out) {
  const uint32_t* from = static_cast<const uint32_t*>(packed);
  uint32_t* to = static_cast<uint32_t*>(out);
  const int64_t pairs = padded / 2;
  for (int first = 0; first < kPairQueries; first += kTileRows) {
    for (int64_t pair = 0; pair < pairs; ++pair) {
      for (int query = 0; query < kTileRows; ++query) {
        *to++ = from[(first + query) * pairs + pair];
      }
    }
  }
}

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
    PairKernels found = avx512::pair_kernels();
    found.packs_bfloat16 = true;
    found.width_multiple = kTileWidth;
    found.pack = pack;
    found.reorder = reorder;
    found.products = products;
    return found;
  }();
  return kernels;
}

}  // namespace amx
}  // namespace pixelis
#endif
