#include "vertical_simd.h"

#if PIXELIS_X86
#include "intrinsics.h"

namespace pixelis {
namespace {

// Unpacking and packing both work inside 128-bit lanes, so bytes come out in the order they went
// in: quarter j of a block holds bytes 4j .. 4j + 3 of every lane, as 32-bit sums.
struct Quarters512 {
  __m512i at[4];
};
struct Quarters256 {
  __m256i at[4];
};

// Byte i of four rows side by side.
PIXELIS_TARGET_AVX512 PIXELIS_INLINE Quarters512 side_by_side(const uint8_t* const* rows,
                                                              int offset, __mmask64 mask) {
  const __m512i a = _mm512_maskz_loadu_epi8(mask, rows[0] + offset);
  const __m512i b = _mm512_maskz_loadu_epi8(mask, rows[1] + offset);
  const __m512i c = _mm512_maskz_loadu_epi8(mask, rows[2] + offset);
  const __m512i d = _mm512_maskz_loadu_epi8(mask, rows[3] + offset);
  const __m512i ab_low = _mm512_unpacklo_epi8(a, b), ab_high = _mm512_unpackhi_epi8(a, b);
  const __m512i cd_low = _mm512_unpacklo_epi8(c, d), cd_high = _mm512_unpackhi_epi8(c, d);
  return {{_mm512_unpacklo_epi16(ab_low, cd_low), _mm512_unpackhi_epi16(ab_low, cd_low),
           _mm512_unpacklo_epi16(ab_high, cd_high), _mm512_unpackhi_epi16(ab_high, cd_high)}};
}

template <int kDigits>
PIXELIS_TARGET_AVX512 PIXELIS_INLINE void block_of_64(const VerticalRow& row, int offset,
                                                      __mmask64 mask) {
  const __m512i half = _mm512_set1_epi32(1 << (row.fraction_bits - 1));
  const __m512i zero = _mm512_setzero_si512();
  __m512i sums[3][4];
  for (int j = 0; j < 4; ++j) {
    sums[0][j] = half;
    sums[1][j] = sums[2][j] = zero;
  }
  const int32_t* weights = row.weights;
  for (int group = 0; group < row.num_groups; ++group, weights += kDigits) {
    const Quarters512 bytes = side_by_side(row.rows + group * 4, offset, mask);
    for (int digit = 0; digit < kDigits; ++digit) {
      const __m512i weight = _mm512_set1_epi32(weights[digit]);
      for (int j = 0; j < 4; ++j) {
        sums[digit][j] = _mm512_dpbusd_epi32(sums[digit][j], bytes.at[j], weight);
      }
    }
  }
  const __m128i bits = _mm_cvtsi32_si128(row.fraction_bits);
  for (int j = 0; j < 4; ++j) {
    __m512i high = sums[1][j];
    if (kDigits == 3) high = _mm512_add_epi32(high, _mm512_slli_epi32(sums[2][j], 8));
    const __m512i sum = _mm512_add_epi32(sums[0][j], _mm512_slli_epi32(high, 8));
    sums[0][j] = _mm512_sra_epi32(sum, bits);
  }
  const __m512i low = _mm512_packs_epi32(sums[0][0], sums[0][1]);
  const __m512i high = _mm512_packs_epi32(sums[0][2], sums[0][3]);
  _mm512_mask_storeu_epi8(row.out + offset, mask, _mm512_packus_epi16(low, high));
}

template <int kDigits>
PIXELIS_TARGET_AVX512 void run_avx512(const VerticalRow& row) {
  int offset = 0;
  for (; offset + 64 <= row.num_bytes; offset += 64)
    block_of_64<kDigits>(row, offset, ~__mmask64{0});
  const int rest = row.num_bytes - offset;
  if (rest > 0) block_of_64<kDigits>(row, offset, (__mmask64{1} << rest) - 1);
}

// Byte i of two rows side by side, as words.
PIXELIS_TARGET_AVX2 PIXELIS_INLINE Quarters256 side_by_side(const uint8_t* const* rows,
                                                            int offset) {
  const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[0] + offset));
  const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[1] + offset));
  const __m256i low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);
  const __m256i zero = _mm256_setzero_si256();
  return {{_mm256_unpacklo_epi8(low, zero), _mm256_unpackhi_epi8(low, zero),
           _mm256_unpacklo_epi8(high, zero), _mm256_unpackhi_epi8(high, zero)}};
}

template <int kDigits>
PIXELIS_TARGET_AVX2 PIXELIS_INLINE void block_of_32(const VerticalRow& row, int offset) {
  const __m256i half = _mm256_set1_epi32(1 << (row.fraction_bits - 1));
  __m256i sums[2][4];
  for (int j = 0; j < 4; ++j) {
    sums[0][j] = half;
    sums[1][j] = _mm256_setzero_si256();
  }
  const int32_t* weights = row.weights;
  for (int group = 0; group < row.num_groups; ++group, weights += kDigits) {
    const Quarters256 words = side_by_side(row.rows + group * 2, offset);
    for (int digit = 0; digit < kDigits; ++digit) {
      const __m256i weight = _mm256_set1_epi32(weights[digit]);
      for (int j = 0; j < 4; ++j) {
        const __m256i product = _mm256_madd_epi16(words.at[j], weight);
        sums[digit][j] = _mm256_add_epi32(sums[digit][j], product);
      }
    }
  }
  const __m128i bits = _mm_cvtsi32_si128(row.fraction_bits);
  for (int j = 0; j < 4; ++j) {
    __m256i sum = sums[0][j];
    if (kDigits == 2) sum = _mm256_add_epi32(sum, _mm256_slli_epi32(sums[1][j], 12));
    sums[0][j] = _mm256_sra_epi32(sum, bits);
  }
  const __m256i low = _mm256_packs_epi32(sums[0][0], sums[0][1]);
  const __m256i high = _mm256_packs_epi32(sums[0][2], sums[0][3]);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(row.out + offset), _mm256_packus_epi16(low, high));
}

// The last block overlaps the one before rather than leave the row.
template <int kDigits>
PIXELIS_TARGET_AVX2 void run_avx2(const VerticalRow& row) {
  int offset = 0;
  for (; offset + kAvx2Block <= row.num_bytes; offset += kAvx2Block) {
    block_of_32<kDigits>(row, offset);
  }
  if (offset < row.num_bytes) block_of_32<kDigits>(row, row.num_bytes - kAvx2Block);
}

}  // namespace

void vertical_avx512(const VerticalRow& row) {
  row.num_digits == 2 ? run_avx512<2>(row) : run_avx512<3>(row);
}

void vertical_avx2(const VerticalRow& row) {
  row.num_digits == 1 ? run_avx2<1>(row) : run_avx2<2>(row);
}

}  // namespace pixelis
#endif
