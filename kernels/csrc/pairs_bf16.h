// How the products of bfloat16 rows find them packed: queries in tiles of 16 rows by 32 values.
#pragma once

#include "pairs_kernels.h"

namespace pixelis {

constexpr int kTileRows = 16;
constexpr int kTileWidth = 32;                       // bfloat16 values in a row of a tile
constexpr int kTileValues = kTileRows * kTileWidth;  // 1 KB

}  // namespace pixelis
