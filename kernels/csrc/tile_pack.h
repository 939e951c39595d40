// From matrices and gradients to the tiles of tiles.h.
#pragma once

#include <cstdint>

#include "tiles.h"

#if PIXELIS_X86

namespace pixelis {

// left[row, k] = matrix[row_ids[row], k]; the rest of the last panel is 0.
void tile_left(const Matrix& matrix, const int64_t* row_ids, int rows, const TileMatrix& left);
// right[k, n] = matrix[n, k] for the panels of columns [begin, end).
void tile_transposed(const Matrix& matrix, int64_t begin, int64_t end, const TileMatrix& right);
// right[k, n] = matrix[first + k, n] for k in [begin, end).
void tile_right(const Matrix& matrix, int64_t first, int64_t begin, int64_t end,
                const TileMatrix& right);
// Both left operands of a 32 by 32 piece of a gradient: rows as they are, and transposed.
void tile_gradient(const float* piece, int64_t stride, const TileMatrix& by_rows, int64_t row_panel,
                   int64_t row_step, const TileMatrix& by_tokens, int64_t token_panel,
                   int64_t token_step);

void narrow_lanes(const float* values, int64_t count, uint16_t* bfloat16);

}  // namespace pixelis

#endif
