"""statistics_kernel with a second, frozen distribution q over the same vocabulary.

Both logits of a tile come from one program, so KL(p || q) is summed from their difference before
either is rounded. The sums are of e · delta and e · (exp(-delta) - 1 + delta), which do not cancel
where p is close to q; combine_kernel.py says how they become the KL.

Shapes: N = tokens (rows beyond count are padding), D, E = widths, V = vocabulary.
"""

import triton
import triton.language as tl

from pixelis_fast.kernels.linear_loss.tile_access import (
    halves,
    product_tile,
    product_tiles,
    store_tile,
    tile_position,
)
from pixelis_fast.kernels.linear_loss.tile_sums import (
    DELTA,
    LOGITS,
    REFERENCE_PEAK,
    REFERENCE_SUM,
    TAIL,
    UNSPECIALISED,
    centred_logits,
    is_wanted,
    rows_to_visit,
    store_sum,
    store_sums,
)
from pixelis_fast.kernels.linear_loss.triton_math import capped, expm1_plus, exponential


@triton.jit
def store_pair_sums(sums_ptr, sums_stride, rows, num_rows, e, centred, delta):
    """What KL(p || q) needs: sums of e · delta, of e · (exp(-delta) - 1 + delta), of q's e."""
    reference_e = exponential(centred - delta)
    near = tl.abs(delta) < 0.5
    series = e * expm1_plus(tl.where(near, delta, 0.0))
    tail = tl.where(near, series, reference_e - e + e * delta)
    peak = tl.max(centred - delta, 1)
    store_sum(sums_ptr, DELTA, sums_stride, rows, num_rows, tl.sum(e * delta, 1))
    store_sum(sums_ptr, TAIL, sums_stride, rows, num_rows, tl.sum(tail, 1))
    store_sum(sums_ptr, REFERENCE_SUM, sums_stride, rows, num_rows, tl.sum(reference_e, 1))
    store_sum(sums_ptr, REFERENCE_PEAK, sums_stride, rows, num_rows, peak)


@triton.jit
def reduce_pair_subtile(
    z,
    difference,
    row,
    column,
    stored,
    stored_delta,
    targets_ptr,
    anchor_ptr,
    shift_ptr,
    sums_ptr,
    sums_stride,
    num_rows,
    vocabulary,
    first_column,
    stored_columns,
    stored_stride,
    STORES: tl.constexpr,
    STORES_DELTA: tl.constexpr,
    WRITES_SUMS: tl.constexpr,
    WANTS_MEAN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TMA: tl.constexpr,
):
    """reduce_subtile with difference = z^p - z^q: deltas to stored_delta, and KL's sums."""
    rows, columns = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
    if WANTS_MEAN:
        # Before the exponentials: logits that live beside them spill.
        total = tl.sum(tl.where((columns < vocabulary)[None, :], z, 0.0), 1)
        store_sum(sums_ptr, LOGITS, sums_stride, rows, num_rows, total)
    centred = centred_logits(z, rows, columns, anchor_ptr, targets_ptr, num_rows, vocabulary)
    e = exponential(centred)
    shift = tl.load(shift_ptr + rows, mask=rows < num_rows, other=0.0)
    delta = difference - shift[:, None]
    if STORES:
        start = column - first_column
        if start < stored_columns:
            store_tile(
                stored, row, start, num_rows, stored_columns, stored_stride, e, ROWS, COLUMNS, TMA
            )
            if STORES_DELTA:
                store_tile(
                    stored_delta, row, start, num_rows, stored_columns, stored_stride, delta,
                    ROWS, COLUMNS, TMA,
                )  # fmt: skip
    if WRITES_SUMS:
        store_sums(sums_ptr, sums_stride, rows, num_rows, e, centred)
        store_pair_sums(sums_ptr, sums_stride, rows, num_rows, e, centred, delta)


@triton.jit(do_not_specialize=UNSPECIALISED)
def pair_statistics_kernel(
    hidden,
    weight,
    reference_hidden,
    reference_weight,
    stored,
    stored_delta,
    targets_ptr,
    anchor_ptr,
    shift_ptr,
    flagged_ptr,
    count_ptr,
    partials_ptr,
    num_rows,
    vocabulary,
    width,
    reference_width,
    first_column,
    end_column,
    stored_columns,
    stored_stride,
    scale,
    softcap,
    HAS_SOFTCAP: tl.constexpr,
    STORES: tl.constexpr,
    STORES_DELTA: tl.constexpr,
    WRITES_SUMS: tl.constexpr,
    WANTS_MEAN: tl.constexpr,
    ONLY_FLAGGED: tl.constexpr,
    SHARES_HEAD: tl.constexpr,
    PROGRAMS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
    SUBTILES: tl.constexpr,
    TMA: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    """statistics_kernel with a second distribution q: delta = z^p - z^q - shift and its sums.

    With SHARES_HEAD reference_hidden holds hidden - hidden^q, and its product with the one head
    is z^p - z^q itself: its rounding is then relative to the difference.
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
            if SHARES_HEAD:
                raw, difference = product_tiles(
                    hidden, reference_hidden, weight, row, column, num_rows, vocabulary, width,
                    ROWS, COLUMNS, DEPTH, TMA, INTERPRET,
                )  # fmt: skip
                z = raw * scale
                difference *= scale
            else:
                raw = product_tile(
                    hidden, weight, row, column, num_rows, vocabulary, width,
                    ROWS, COLUMNS, DEPTH, TMA, INTERPRET,
                )  # fmt: skip
                z = capped(raw, scale, softcap, HAS_SOFTCAP)
                raw = product_tile(
                    reference_hidden, reference_weight, row, column, num_rows, vocabulary,
                    reference_width, ROWS, COLUMNS, DEPTH, TMA, INTERPRET,
                )  # fmt: skip
                difference = z - capped(raw, scale, softcap, HAS_SOFTCAP)
            sums_ptr = partials_ptr + per_subtile * column_tile * SUBTILES
            if SUBTILES == 1:
                reduce_pair_subtile(
                    z, difference, row, column, stored, stored_delta, targets_ptr, anchor_ptr,
                    shift_ptr, sums_ptr, sums_stride, num_rows, vocabulary, first_column,
                    stored_columns, stored_stride,
                    STORES, STORES_DELTA, WRITES_SUMS, WANTS_MEAN, ROWS, SUB, TMA,
                )  # fmt: skip
            else:
                left, right = halves(z, ROWS, COLUMNS)
                left_difference, right_difference = halves(difference, ROWS, COLUMNS)
                reduce_pair_subtile(
                    left, left_difference, row, column, stored, stored_delta, targets_ptr,
                    anchor_ptr, shift_ptr, sums_ptr, sums_stride, num_rows, vocabulary,
                    first_column, stored_columns, stored_stride,
                    STORES, STORES_DELTA, WRITES_SUMS, WANTS_MEAN, ROWS, SUB, TMA,
                )  # fmt: skip
                reduce_pair_subtile(
                    right, right_difference, row, column + SUB, stored, stored_delta,
                    targets_ptr, anchor_ptr, shift_ptr, sums_ptr + per_subtile, sums_stride,
                    num_rows, vocabulary, first_column, stored_columns, stored_stride,
                    STORES, STORES_DELTA, WRITES_SUMS, WANTS_MEAN, ROWS, SUB, TMA,
                )  # fmt: skip
