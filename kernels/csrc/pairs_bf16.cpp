// Products of all pairs of bfloat16 rows on AVX-512 BF16, float32 sums.
#include "pairs_bf16.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#if PIXELIS_X86
#include "intrinsics.h"

namespace pixelis {
namespace bf16 {
namespace {

constexpr int kKeyRows = 8;  // of products at once, by 32 queries: 16 of 32 registers

PIXELIS_TARGET_BF16 float pack(const void* row, bool, int64_t width, int64_t padded, void* out) {
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

// A value pair of each key, broadcast, by those of two tiles of queries.
PIXELIS_TARGET_BF16 void product_tiles(const uint16_t* query, const uint16_t* next,
                                       const uint16_t* keys, int64_t padded, float* out) {
  __m512 sums[kKeyRows][2];
  for (__m512* sum : sums) sum[0] = sum[1] = _mm512_setzero_ps();
  for (int64_t at = 0; at < padded; at += 2) {
    const __m512bh first = (__m512bh)_mm512_loadu_si512(query + at * kTileRows);
    const __m512bh second = (__m512bh)_mm512_loadu_si512(next + at * kTileRows);
#pragma GCC unroll 8
    for (int key = 0; key < kKeyRows; ++key) {
      int32_t pair;
      std::memcpy(&pair, keys + key * padded + at, sizeof(pair));
      const __m512bh left = (__m512bh)_mm512_set1_epi32(pair);
      sums[key][0] = _mm512_dpbf16_ps(sums[key][0], left, first);
      sums[key][1] = _mm512_dpbf16_ps(sums[key][1], left, second);
    }
  }
  for (int key = 0; key < kKeyRows; ++key) {
    _mm512_storeu_ps(out + key * kPairQueries, sums[key][0]);
    _mm512_storeu_ps(out + key * kPairQueries + kTileRows, sums[key][1]);
  }
}

void products(const void* queries, const void* keys, int64_t padded, int num_queries, float* out) {
  const uint16_t* key = static_cast<const uint16_t*>(keys);
  for (int first = 0; first < num_queries; first += 2 * kTileRows) {
    const uint16_t* query = static_cast<const uint16_t*>(queries) + first * padded;
    for (int row = 0; row < kPairKeys; row += kKeyRows) {
      product_tiles(query, query + kTileRows * padded, key + row * padded, padded,
                    out + row * kPairQueries + first);
    }
  }
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

}  // namespace bf16
}  // namespace pixelis
#endif
