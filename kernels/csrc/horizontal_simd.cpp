#include "horizontal_simd.h"

#if PIXELIS_X86
#include "intrinsics.h"

namespace pixelis {
namespace {

PIXELIS_INLINE __m128i load16(const uint8_t* bytes) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
}

// Four taps of four pixels: a 128-bit lane per pixel, in it the taps of R, of G, of B, zeros.
PIXELIS_TARGET_AVX512 PIXELIS_INLINE __m512i taps_of_four(const uint8_t* at, const int* start) {
  const __m512i by_channel =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11, -1, -1, -1, -1));
  __m512i taps = _mm512_castsi128_si512(load16(at + start[0]));
  taps = _mm512_inserti32x4(taps, load16(at + start[1]), 1);
  taps = _mm512_inserti32x4(taps, load16(at + start[2]), 2);
  taps = _mm512_inserti32x4(taps, load16(at + start[3]), 3);
  return _mm512_shuffle_epi8(taps, by_channel);
}

// A 32-bit lane per pixel and channel.
template <int kDigits>
PIXELIS_TARGET_AVX512 PIXELIS_INLINE __m512i sums_of_four(const uint8_t* in, const int* start,
                                                          const int8_t* weights, int num_quads,
                                                          __m512i half) {
  __m512i low = half;
  __m512i middle = _mm512_setzero_si512();
  __m512i high = _mm512_setzero_si512();
  for (int quad = 0; quad < num_quads; ++quad, weights += kDigits * 64) {
    const __m512i taps = taps_of_four(in + quad * kTapsPerQuad * 3, start);
    low = _mm512_dpbusd_epi32(low, taps, _mm512_loadu_si512(weights));
    middle = _mm512_dpbusd_epi32(middle, taps, _mm512_loadu_si512(weights + 64));
    if (kDigits == 3) high = _mm512_dpbusd_epi32(high, taps, _mm512_loadu_si512(weights + 128));
  }
  if (kDigits == 3) middle = _mm512_add_epi32(_mm512_slli_epi32(high, 8), middle);
  return _mm512_add_epi32(_mm512_slli_epi32(middle, 8), low);
}

// Rows are the inner loop: a group's weights stay in the first-level cache for all of them.
template <int kDigits>
PIXELIS_TARGET_AVX512 void run_avx512(const HorizontalRows& rows, const Avx512Weights& weights) {
  const __m128i drop_fourth = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
  const __m512i half = _mm512_set1_epi32(1 << (rows.fraction_bits - 1));
  const __m128i bits = _mm_cvtsi32_si128(rows.fraction_bits);
  const int8_t* packed = weights.values.data();
  for (int pixel = 0; pixel < rows.num_pixels; pixel += kAvx512Pixels) {
    for (int row = 0; row < rows.num_rows; ++row) {
      __m512i sums =
          sums_of_four<kDigits>(rows.in[row], rows.start + pixel, packed, weights.num_quads, half);
      sums = _mm512_max_epi32(_mm512_sra_epi32(sums, bits), _mm512_setzero_si512());
      const __m128i bytes = _mm_shuffle_epi8(_mm512_cvtusepi32_epi8(sums), drop_fourth);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(rows.out[row] + pixel * 3), bytes);
    }
    packed += weights.num_quads * kDigits * 64;
  }
}

// Two pixels: a 128-bit lane per pixel, in it a 32-bit lane per channel.
template <int kDigits>
PIXELIS_TARGET_AVX2 PIXELIS_INLINE __m256i sums_of_two(const uint8_t* in, const int* start,
                                                       const __m256i* weights, int num_quads,
                                                       __m256i half) {
  // Two packed RGB taps -> pairs of 16-bit values per channel, zero extended.
  const __m256i first_pair = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1));
  const __m256i second_pair = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1));
  __m256i low = half;
  __m256i high = _mm256_setzero_si256();
  for (int quad = 0; quad < num_quads; ++quad, weights += 2 * kDigits) {
    const uint8_t* at = in + quad * kTapsPerQuad * 3;
    const __m256i taps = _mm256_inserti128_si256(_mm256_castsi128_si256(load16(at + start[0])),
                                                 load16(at + start[1]), 1);
    const __m256i first = _mm256_shuffle_epi8(taps, first_pair);
    const __m256i second = _mm256_shuffle_epi8(taps, second_pair);
    const __m256i* of_second = weights + kDigits;
    low = _mm256_add_epi32(low, _mm256_madd_epi16(first, _mm256_loadu_si256(weights)));
    low = _mm256_add_epi32(low, _mm256_madd_epi16(second, _mm256_loadu_si256(of_second)));
    if (kDigits == 1) continue;
    high = _mm256_add_epi32(high, _mm256_madd_epi16(first, _mm256_loadu_si256(weights + 1)));
    high = _mm256_add_epi32(high, _mm256_madd_epi16(second, _mm256_loadu_si256(of_second + 1)));
  }
  return kDigits == 1 ? low : _mm256_add_epi32(_mm256_slli_epi32(high, 12), low);
}

template <int kDigits>
PIXELIS_TARGET_AVX2 void run_avx2(const HorizontalRows& rows, const Avx2Weights& weights) {
  const __m128i drop_fourth =
      _mm_setr_epi8(0, 1, 2, 4, 5, 6, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m256i half = _mm256_set1_epi32(1 << (rows.fraction_bits - 1));
  const __m128i bits = _mm_cvtsi32_si128(rows.fraction_bits);
  const auto* packed = reinterpret_cast<const __m256i*>(weights.values.data());
  for (int pixel = 0; pixel < rows.num_pixels; pixel += kAvx2Pixels) {
    for (int row = 0; row < rows.num_rows; ++row) {
      __m256i sums =
          sums_of_two<kDigits>(rows.in[row], rows.start + pixel, packed, weights.num_quads, half);
      sums = _mm256_sra_epi32(sums, bits);
      const __m128i words =
          _mm_packs_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
      const __m128i bytes = _mm_shuffle_epi8(_mm_packus_epi16(words, words), drop_fourth);
      _mm_storel_epi64(reinterpret_cast<__m128i*>(rows.out[row] + pixel * 3), bytes);
    }
    packed += weights.num_quads * 2 * kDigits;
  }
}

}  // namespace

void horizontal_avx512(const HorizontalRows& rows, const Avx512Weights& weights) {
  weights.num_digits == 2 ? run_avx512<2>(rows, weights) : run_avx512<3>(rows, weights);
}

void horizontal_avx2(const HorizontalRows& rows, const Avx2Weights& weights) {
  weights.num_digits == 1 ? run_avx2<1>(rows, weights) : run_avx2<2>(rows, weights);
}

}  // namespace pixelis
#endif
