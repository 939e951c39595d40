"""The two matrix products of backward, over one slice of the vocabulary.

Both read rows only up to the device's count, so masked tokens cost nothing; each output tile has
one writer and one order of summation.

Shapes: N = rows, D = hidden width, V = vocabulary, C = columns of the slice.
"""

import triton
import triton.language as tl

from pixelis_fast.kernels.linear_loss.tile_access import (
    halves,
    load_tile,
    load_transposed,
    store_tile,
    tile_position,
)

UNSPECIALISED = ("num_rows", "vocabulary", "first_column", "columns")
"""Sizes that change from call to call: one machine code for all of them."""


@triton.jit(do_not_specialize=UNSPECIALISED)
def hidden_product_kernel(
    gradient,
    weight,
    out_ptr,
    count_ptr,
    num_rows,
    vocabulary,
    width,
    gradient_stride,
    first_column,
    columns,
    ACCUMULATES: tl.constexpr,
    PROGRAMS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
    TMA: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    """out (N, D) float32 (+)= gradient (N, C) · weight[first : first + C] (C, D).

    out by pointers: a float32 tile staged for TMA (128 KB) would cost a pipeline stage, and it is
    written once per C products.
    """
    count = tl.load(count_ptr)
    row_tiles = tl.cdiv(count, ROWS)
    column_tiles = tl.cdiv(width, COLUMNS)
    for tile in range(tl.program_id(0), row_tiles * column_tiles, PROGRAMS):
        row_tile, column_tile = tile_position(tile, row_tiles, column_tiles, GROUP)
        row, column = row_tile * ROWS, column_tile * COLUMNS
        total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        for k in range(0, columns, DEPTH):
            left = load_tile(
                gradient, row, k, num_rows, columns, gradient_stride, ROWS, DEPTH, TMA, INTERPRET
            )
            right = load_tile(
                weight, first_column + k, column, vocabulary, width, width,
                DEPTH, COLUMNS, TMA, INTERPRET,
            )  # fmt: skip
            total = tl.dot(left, right, total, input_precision="ieee")
        if ACCUMULATES:
            left, right = halves(total, ROWS, COLUMNS)
            add_tile(out_ptr, row, column, num_rows, width, left, ROWS, COLUMNS // 2)
            add_tile(
                out_ptr, row, column + COLUMNS // 2, num_rows, width, right, ROWS, COLUMNS // 2
            )
        else:
            store_tile(out_ptr, row, column, num_rows, width, width, total, ROWS, COLUMNS, False)


@triton.jit
def add_tile(
    out_ptr, row, column, num_rows, width, tile, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """out[row:, column:] += tile, half of an accumulator at a time: a whole one spills."""
    tile += load_tile(out_ptr, row, column, num_rows, width, width, ROWS, COLUMNS, False, False)
    store_tile(out_ptr, row, column, num_rows, width, width, tile, ROWS, COLUMNS, False)


@triton.jit(do_not_specialize=UNSPECIALISED)
def weight_product_kernel(
    gradient,
    hidden,
    out,
    count_ptr,
    num_rows,
    vocabulary,
    width,
    gradient_stride,
    first_column,
    columns,
    PROGRAMS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
    TMA: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    """out[first : first + C] (C, D) = gradient (N, C)ᵀ · hidden (N, D); hidden's padding is 0."""
    count = tl.load(count_ptr)
    row_tiles = tl.cdiv(columns, ROWS)
    column_tiles = tl.cdiv(width, COLUMNS)
    for tile in range(tl.program_id(0), row_tiles * column_tiles, PROGRAMS):
        row_tile, column_tile = tile_position(tile, row_tiles, column_tiles, GROUP)
        row, column = row_tile * ROWS, column_tile * COLUMNS
        total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        for k in range(0, count, DEPTH):
            left = load_transposed(
                gradient, k, row, num_rows, columns, gradient_stride, DEPTH, ROWS, TMA, INTERPRET
            )
            right = load_tile(
                hidden, k, column, num_rows, width, width, DEPTH, COLUMNS, TMA, INTERPRET
            )
            total = tl.dot(left, right, total, input_precision="ieee")
        store_tile(
            out, first_column + row, column, vocabulary, width, width, total, ROWS, COLUMNS, TMA
        )
