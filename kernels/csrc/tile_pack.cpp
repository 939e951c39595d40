#include "tile_pack.h"

#include <algorithm>
#include <cstring>

#include "linear_buffer.h"

#if PIXELIS_X86
#include "intrinsics.h"

#define BF16_INLINE PIXELIS_TARGET_BF16 PIXELIS_INLINE

namespace pixelis {
namespace {

constexpr int kMaxPlanes = 3;

// 32 values as planes of bfloat16.
struct Planes {
  __m512i plane[kMaxPlanes];
};

BF16_INLINE __m512 widened(__m256i half) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

BF16_INLINE Planes split(__m512 low, __m512 high, int planes) {
  Planes out;
  for (int i = 0; i < planes; ++i) {
    out.plane[i] = (__m512i)_mm512_cvtne2ps_pbh(high, low);
    if (i + 1 == planes) break;
    low = _mm512_sub_ps(low, widened(_mm512_castsi512_si256(out.plane[i])));
    high = _mm512_sub_ps(high, widened(_mm512_extracti64x4_epi64(out.plane[i], 1)));
  }
  return out;
}

// `count` of 32 values from column `column` of a row on, zeros after them.
BF16_INLINE Planes load_planes(const Matrix& matrix, int64_t row, int64_t column, int planes) {
  const int64_t count = std::min<int64_t>(kTile, matrix.columns - column);
  const __mmask32 mask = static_cast<__mmask32>((uint64_t{1} << count) - 1);
  const int64_t at = row * matrix.columns + column;
  if (matrix.is_bfloat16) {
    Planes out;
    out.plane[0] = _mm512_maskz_loadu_epi16(mask, static_cast<const uint16_t*>(matrix.data) + at);
    return out;
  }
  const float* from = static_cast<const float*>(matrix.data) + at;
  const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), from);
  const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), from + 16);
  return split(low, high, planes);
}

BF16_INLINE Planes no_planes() {
  Planes out;
  for (__m512i& plane : out.plane) plane = _mm512_setzero_si512();
  return out;
}

// Values of two rows of k side by side: k % 2 varies fastest, first 16 columns, then 16 more.
struct Interleaved {
  __m512i half[2];
};

BF16_INLINE Interleaved interleave(__m512i even, __m512i odd) {
  const __m512i low = _mm512_unpacklo_epi16(even, odd), high = _mm512_unpackhi_epi16(even, odd);
  const __m512i first = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0);
  const __m512i second = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
  return {
      {_mm512_permutex2var_epi64(low, first, high), _mm512_permutex2var_epi64(low, second, high)}};
}

// Rows of 16 words to columns, in place.
BF16_INLINE void transpose(__m512i* rows) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    rows[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    rows[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    rows[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    rows[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    rows[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    rows[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    rows[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

}  // namespace

PIXELIS_TARGET_BF16 void tile_left(const Matrix& matrix, const int64_t* row_ids, int rows,
                                   const TileMatrix& left) {
  for (int panel = 0; panel < padded(rows) / kTile; ++panel) {
    for (int64_t step = 0; step < left.steps; ++step) {
      for (int i = 0; i < kTile; ++i) {  // both tiles of a step have 16 rows of 32 values
        const int row = panel * kTile + i;
        const Planes values =
            row < rows ? load_planes(matrix, row_ids[row], step * kTile, left.planes) : no_planes();
        for (int plane = 0; plane < left.planes; ++plane) {
          _mm512_store_si512(left.at(plane, panel, step) + i * kTile, values.plane[plane]);
        }
      }
    }
  }
}

PIXELIS_TARGET_BF16 void tile_transposed(const Matrix& matrix, int64_t begin, int64_t end,
                                         const TileMatrix& right) {
  __m512i words[kMaxPlanes][16];
  for (int64_t n = begin; n < padded(end); n += 16) {
    for (int64_t step = 0; step < right.steps; ++step) {
      for (int64_t i = 0; i < 16; ++i) {
        const Planes values = n + i < matrix.rows
                                  ? load_planes(matrix, n + i, step * kTile, right.planes)
                                  : no_planes();
        for (int plane = 0; plane < right.planes; ++plane) words[plane][i] = values.plane[plane];
      }
      for (int plane = 0; plane < right.planes; ++plane) {
        transpose(words[plane]);
        uint16_t* to = right.at(plane, n / kTile, step) + n % kTile * kTile;
        for (int i = 0; i < 16; ++i) _mm512_store_si512(to + i * kTile, words[plane][i]);
      }
    }
  }
}

// Tile by tile, so that each is written at once: those of one row are a slice's steps apart.
PIXELIS_TARGET_BF16 void tile_right(const Matrix& matrix, int64_t first, int64_t begin, int64_t end,
                                    const TileMatrix& right) {
  for (int64_t k = begin; k < end; k += kTile) {
    for (int64_t n = 0; n < matrix.columns; n += kTile) {
      for (int64_t pair = k; pair < k + kTile; pair += 2) {
        const Planes even =
            pair < end ? load_planes(matrix, first + pair, n, right.planes) : no_planes();
        const Planes odd =
            pair + 1 < end ? load_planes(matrix, first + pair + 1, n, right.planes) : no_planes();
        for (int i = 0; i < right.planes; ++i) {
          const Interleaved both = interleave(even.plane[i], odd.plane[i]);
          uint16_t* to = right.at(i, n / kTile, k / kTile) + (pair - k) / 2 * kTile;
          _mm512_store_si512(to, both.half[0]);
          _mm512_store_si512(to + kTilePair / 2, both.half[1]);
        }
      }
    }
  }
}

PIXELIS_TARGET_BF16 void tile_gradient(const float* piece, int64_t stride,
                                       const TileMatrix& by_rows, int64_t row_panel,
                                       int64_t row_step, const TileMatrix& by_tokens,
                                       int64_t token_panel, int64_t token_step) {
  __m512i words[kMaxPlanes][2][16];  // pairs of rows side by side, per 16 tokens
  for (int row = 0; row < kTile; row += 2) {
    Planes values[2];
    for (int i = 0; i < 2; ++i) {
      const float* from = piece + (row + i) * stride;
      values[i] = split(_mm512_loadu_ps(from), _mm512_loadu_ps(from + 16), by_rows.planes);
      for (int plane = 0; plane < by_rows.planes; ++plane) {
        uint16_t* to = by_rows.at(plane, row_panel, row_step) + (row + i) * kTile;
        _mm512_store_si512(to, values[i].plane[plane]);
      }
    }
    for (int plane = 0; plane < by_rows.planes; ++plane) {
      const Interleaved pairs = interleave(values[0].plane[plane], values[1].plane[plane]);
      for (int half = 0; half < 2; ++half) words[plane][half][row / 2] = pairs.half[half];
    }
  }
  for (int plane = 0; plane < by_rows.planes; ++plane) {
    uint16_t* to = by_tokens.at(plane, token_panel, token_step);
    for (int half = 0; half < 2; ++half) {
      transpose(words[plane][half]);
      for (int i = 0; i < 16; ++i) {
        _mm512_store_si512(to + (half * 16 + i) * kTile, words[plane][half][i]);
      }
    }
  }
}

PIXELIS_TARGET_BF16 void narrow_lanes(const float* values, int64_t count, uint16_t* bfloat16) {
  for (int64_t i = 0; i < count; i += 16) {
    const int64_t left = std::min<int64_t>(16, count - i);
    const __mmask16 mask = static_cast<__mmask16>((1U << left) - 1);
    const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, values + i));
    _mm256_mask_storeu_epi16(bfloat16 + i, mask, (__m256i)rounded);
  }
}

}  // namespace pixelis

#endif
