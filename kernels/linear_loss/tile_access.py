"""Blocks of a matrix in and out: by TMA descriptor, or by pointers where there is no TMA.

`TMA` says what the matrix argument is. On sm_80 triton would rewrite a descriptor to 64-bit
offsets and a mask per element, which spills, so that generation gets pointers.
"""

import triton
import triton.language as tl


@triton.jit
def load_tile(
    matrix,
    row,
    column,
    num_rows,
    num_columns,
    stride,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TMA: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    """matrix[row : row + ROWS, column : column + COLUMNS], zeros outside it."""
    if TMA:
        tile = matrix.load([row, column])
    else:
        rows = row + tl.arange(0, ROWS)
        columns = column + tl.arange(0, COLUMNS)
        inside = (rows < num_rows)[:, None] & (columns < num_columns)[None, :]
        offsets = rows.to(tl.int64)[:, None] * stride + columns[None, :]
        tile = tl.load(matrix + offsets, mask=inside, other=0.0)
    if INTERPRET:
        tile = tile.to(tl.float32)
    return tile


@triton.jit
def load_transposed(
    matrix,
    row,
    column,
    num_rows,
    num_columns,
    stride,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TMA: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    """load_tile(…)ᵀ, (COLUMNS, ROWS); by pointers read that way round, so it can be pipelined."""
    if TMA:
        tile = matrix.load([row, column]).T
    else:
        rows = row + tl.arange(0, ROWS)
        columns = column + tl.arange(0, COLUMNS)
        inside = (rows < num_rows)[None, :] & (columns < num_columns)[:, None]
        offsets = rows.to(tl.int64)[None, :] * stride + columns[:, None]
        tile = tl.load(matrix + offsets, mask=inside, other=0.0)
    if INTERPRET:
        tile = tile.to(tl.float32)
    return tile


@triton.jit
def store_tile(
    matrix,
    row,
    column,
    num_rows,
    num_columns,
    stride,
    tile,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TMA: tl.constexpr,
):
    """What lies outside the matrix is left out."""
    if TMA:
        matrix.store([row, column], tile.to(matrix.dtype))
    else:
        rows = row + tl.arange(0, ROWS)
        columns = column + tl.arange(0, COLUMNS)
        inside = (rows < num_rows)[:, None] & (columns < num_columns)[None, :]
        offsets = rows.to(tl.int64)[:, None] * stride + columns[None, :]
        tl.store(matrix + offsets, tile.to(matrix.dtype.element_ty), mask=inside)


@triton.jit
def halves(tile, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The left and the right half of a tile's columns; registers are renamed, nothing moves."""
    return tl.split(tl.permute(tl.reshape(tile, (ROWS, 2, COLUMNS // 2)), (0, 2, 1)))


@triton.jit
def tile_position(tile, row_tiles, column_tiles, GROUP: tl.constexpr):
    """Tile number -> (row tile, column tile), GROUP row tiles at a time."""
    per_group = GROUP * column_tiles
    group = tile // per_group
    first = group * GROUP
    height = tl.minimum(row_tiles - first, GROUP)
    within = tile - group * per_group
    return first + within % height, within // height


@triton.jit
def product_tile(
    left,
    right,
    row,
    column,
    left_rows,
    right_rows,
    width,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    TMA: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    """left[row:, :] · right[column:, :]ᵀ in float32, of matrices `width` wide and dense."""
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for k in range(0, width, DEPTH):
        a = load_tile(left, row, k, left_rows, width, width, ROWS, DEPTH, TMA, INTERPRET)
        b = load_tile(right, column, k, right_rows, width, width, COLUMNS, DEPTH, TMA, INTERPRET)
        total = tl.dot(a, b.T, total, input_precision="ieee")
    return total


@triton.jit
def product_tiles(
    left,
    other,
    right,
    row,
    column,
    left_rows,
    right_rows,
    width,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    TMA: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    """product_tile of left and of other, with one read of right."""
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    second = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for k in range(0, width, DEPTH):
        a = load_tile(left, row, k, left_rows, width, width, ROWS, DEPTH, TMA, INTERPRET)
        c = load_tile(other, row, k, left_rows, width, width, ROWS, DEPTH, TMA, INTERPRET)
        b = load_tile(right, column, k, right_rows, width, width, COLUMNS, DEPTH, TMA, INTERPRET)
        total = tl.dot(a, b.T, total, input_precision="ieee")
        second = tl.dot(c, b.T, second, input_precision="ieee")
    return total, second
