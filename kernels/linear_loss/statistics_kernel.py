"""The forward pass over the vocabulary: logits of one tile at a time, reduced before they leave.

A tile is ROWS tokens × COLUMNS vocabulary entries; the float32 accumulators of the product feed
the exponentials directly. What is stored at a target is 0, and set afterwards. With two SUBTILES
the epilogue runs over a tile in halves: whole 128x256 tiles of exponentials beside their
accumulators spill on sm_90; `make compile` shows that halves do not.

A program walks over tiles in groups of GROUP row tiles, which keeps their hidden states in L2
while the head streams by.

Shapes: N = tokens (rows beyond count are padding), D = width, V = vocabulary.
"""

import triton
import triton.language as tl

from pixelis_fast.kernels.linear_loss.tile_access import (
    halves,
    product_tile,
    store_tile,
    tile_position,
)
from pixelis_fast.kernels.linear_loss.tile_sums import (
    LOGITS,
    UNSPECIALISED,
    centred_logits,
    is_wanted,
    rows_to_visit,
    store_sum,
    store_sums,
)
from pixelis_fast.kernels.linear_loss.triton_math import capped, exponential


@triton.jit
def reduce_subtile(
    raw,
    row,
    column,
    stored,
    targets_ptr,
    anchor_ptr,
    sums_ptr,
    sums_stride,
    num_rows,
    vocabulary,
    first_column,
    stored_columns,
    stored_stride,
    scale,
    softcap,
    HAS_SOFTCAP: tl.constexpr,
    STORES: tl.constexpr,
    WRITES_SUMS: tl.constexpr,
    WANTS_MEAN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TMA: tl.constexpr,
):
    """Exponentials of raw[row:, column:] to stored, their sums to sums_ptr."""
    rows, columns = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
    z = capped(raw, scale, softcap, HAS_SOFTCAP)
    if WANTS_MEAN:
        # Before the exponentials: logits that live beside them spill.
        total = tl.sum(tl.where((columns < vocabulary)[None, :], z, 0.0), 1)
        store_sum(sums_ptr, LOGITS, sums_stride, rows, num_rows, total)
    centred = centred_logits(z, rows, columns, anchor_ptr, targets_ptr, num_rows, vocabulary)
    e = exponential(centred)
    if WRITES_SUMS:
        store_sums(sums_ptr, sums_stride, rows, num_rows, e, centred)
    if STORES:
        start = column - first_column
        if start < stored_columns:
            store_tile(
                stored, row, start, num_rows, stored_columns, stored_stride, e, ROWS, COLUMNS, TMA
            )


@triton.jit(do_not_specialize=UNSPECIALISED)
def statistics_kernel(
    hidden,
    weight,
    stored,
    targets_ptr,
    anchor_ptr,
    flagged_ptr,
    count_ptr,
    partials_ptr,
    num_rows,
    vocabulary,
    width,
    first_column,
    end_column,
    stored_columns,
    stored_stride,
    scale,
    softcap,
    HAS_SOFTCAP: tl.constexpr,
    STORES: tl.constexpr,
    WRITES_SUMS: tl.constexpr,
    WANTS_MEAN: tl.constexpr,
    ONLY_FLAGGED: tl.constexpr,
    PROGRAMS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
    SUBTILES: tl.constexpr,
    TMA: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    """Sums of exp(z - anchor) over each tile of columns [first, end), and the exponentials.

    hidden (N, D), weight (V, D), stored (N, stored_columns): descriptors or pointers. count:
    valid rows, in device memory. stored's own column 0 is first_column. ONLY_FLAGGED repeats the
    tiles that hold a flagged row, after it got a new anchor.
    """
    SUB: tl.constexpr = COLUMNS // SUBTILES
    count = rows_to_visit(count_ptr, flagged_ptr, num_rows, ONLY_FLAGGED)
    row_tiles = tl.cdiv(count, ROWS)
    column_tiles = tl.cdiv(end_column - first_column, COLUMNS)
    per_subtile = tl.zeros((), dtype=tl.int64) + num_rows
    sums_stride = per_subtile * column_tiles * SUBTILES
    for tile in range(tl.program_id(0), row_tiles * column_tiles, PROGRAMS):
        row_tile, column_tile = tile_position(tile, row_tiles, column_tiles, GROUP)
        row, column = row_tile * ROWS, first_column + column_tile * COLUMNS
        if is_wanted(flagged_ptr, row + tl.arange(0, ROWS), num_rows, ONLY_FLAGGED):
            raw = product_tile(
                hidden, weight, row, column, num_rows, vocabulary, width,
                ROWS, COLUMNS, DEPTH, TMA, INTERPRET,
            )  # fmt: skip
            sums_ptr = partials_ptr + per_subtile * column_tile * SUBTILES
            if SUBTILES == 1:
                reduce_subtile(
                    raw, row, column, stored, targets_ptr, anchor_ptr, sums_ptr, sums_stride,
                    num_rows, vocabulary, first_column, stored_columns, stored_stride, scale,
                    softcap, HAS_SOFTCAP, STORES, WRITES_SUMS, WANTS_MEAN, ROWS, SUB, TMA,
                )  # fmt: skip
            else:
                left, right = halves(raw, ROWS, COLUMNS)
                reduce_subtile(
                    left, row, column, stored, targets_ptr, anchor_ptr, sums_ptr, sums_stride,
                    num_rows, vocabulary, first_column, stored_columns, stored_stride, scale,
                    softcap, HAS_SOFTCAP, STORES, WRITES_SUMS, WANTS_MEAN, ROWS, SUB, TMA,
                )  # fmt: skip
                reduce_subtile(
                    right, row, column + SUB, stored, targets_ptr, anchor_ptr,
                    sums_ptr + per_subtile, sums_stride,
                    num_rows, vocabulary, first_column, stored_columns, stored_stride, scale,
                    softcap, HAS_SOFTCAP, STORES, WRITES_SUMS, WANTS_MEAN, ROWS, SUB, TMA,
                )  # fmt: skip
