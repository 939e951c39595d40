"""Partial sums of every tile -> statistics per row, and which rows need another anchor.

One program per block of rows; tiles are added TILES at a time in their own order, so a row's
result depends on nothing but its partials.

Shapes: N = rows, S = statistics, partials (sum, column tile, N).
"""

import triton
import triton.language as tl

from pixelis_fast.kernels.linear_loss.tile_sums import (
    CENTRED,
    DELTA,
    LOGITS,
    PEAK,
    REFERENCE_PEAK,
    REFERENCE_SUM,
    SUM,
    TAIL,
)
from pixelis_fast.kernels.linear_loss.triton_math import (
    expm1_plus,
    exponential,
    log1p,
    log1p_minus,
    logarithm,
    not_negative,
)

LARGEST_EXPONENT = tl.constexpr(60.0)
"""Nats above the anchor: exp(60) squared still fits float32 sums of 10^12 terms' products."""


@triton.jit
def added_tiles(
    partials_ptr, which, column_tiles, rows, num_rows, ROWS: tl.constexpr, TILES: tl.constexpr
):
    total = tl.zeros((ROWS,), dtype=tl.float32)
    for start in range(0, column_tiles, TILES):
        tiles = start + tl.arange(0, TILES)
        offset = (which * column_tiles + tiles.to(tl.int64)) * num_rows
        inside = (tiles < column_tiles)[:, None] & (rows < num_rows)[None, :]
        total += tl.sum(
            tl.load(partials_ptr + offset[:, None] + rows[None, :], mask=inside, other=0.0), 0
        )
    return total


@triton.jit
def highest_tile(
    partials_ptr, which, column_tiles, rows, num_rows, ROWS: tl.constexpr, TILES: tl.constexpr
):
    highest = tl.full((ROWS,), float("-inf"), dtype=tl.float32)
    for start in range(0, column_tiles, TILES):
        tiles = start + tl.arange(0, TILES)
        offset = (which * column_tiles + tiles.to(tl.int64)) * num_rows
        inside = (tiles < column_tiles)[:, None] & (rows < num_rows)[None, :]
        values = tl.load(
            partials_ptr + offset[:, None] + rows[None, :], mask=inside, other=float("-inf")
        )
        highest = tl.maximum(highest, tl.max(values, 0))
    return highest


@triton.jit(do_not_specialize=("num_rows", "column_tiles", "vocabulary"))
def combine_kernel(
    partials_ptr,
    target_logit_ptr,
    target_delta_ptr,
    anchor_ptr,
    shift_ptr,
    flagged_ptr,
    statistics_ptr,
    count_ptr,
    num_rows,
    column_tiles,
    vocabulary,
    HAS_REFERENCE: tl.constexpr,
    WANTS_MEAN: tl.constexpr,
    ONLY_FLAGGED: tl.constexpr,
    ROWS: tl.constexpr,
    TILES: tl.constexpr,
):
    """statistics (S, N) of rows below count, zeros in the others.

    drift = log E_p[exp(-delta)] = lse_q - lse_p + shift, and KL = E_p[delta] + drift: close to q
    both come from E_p[delta] and E_p[exp(-delta) - 1 + delta] without cancellation.

    Flags a row whose largest exponent left the safe range and moves its anchor (and shift) to the
    row's own maximum, for one more run over its tiles.
    """
    if ONLY_FLAGGED and tl.load(flagged_ptr + num_rows) == 0:
        return
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    used = rows < tl.load(count_ptr)
    stored = rows < num_rows
    anchor = tl.load(anchor_ptr + rows, mask=used, other=0.0)
    target_logit = tl.load(target_logit_ptr + rows, mask=used, other=0.0)
    others = added_tiles(partials_ptr, SUM, column_tiles, rows, num_rows, ROWS, TILES)
    centred = added_tiles(partials_ptr, CENTRED, column_tiles, rows, num_rows, ROWS, TILES)
    peak = highest_tile(partials_ptr, PEAK, column_tiles, rows, num_rows, ROWS, TILES)

    target = target_logit - anchor
    target_e = exponential(target)
    total = others + target_e
    buried = target < -LARGEST_EXPONENT
    odds = others / tl.where(buried, 1.0, target_e)
    logprob = tl.where(buried, target - tl.log(total), -log1p(odds))
    entropy = tl.log(total) - (centred + target_e * target) / total
    store_statistic(statistics_ptr, 0, rows, num_rows, used, logprob)
    store_statistic(statistics_ptr, 1, rows, num_rows, used, target_logit - logprob)
    store_statistic(statistics_ptr, 2, rows, num_rows, used, not_negative(entropy))
    if WANTS_MEAN:
        logits = added_tiles(partials_ptr, LOGITS, column_tiles, rows, num_rows, ROWS, TILES)
        store_statistic(statistics_ptr, 3, rows, num_rows, used, logits / vocabulary)
    reference_peak = peak
    if HAS_REFERENCE:
        shift = tl.load(shift_ptr + rows, mask=used, other=0.0)
        target_delta = tl.load(target_delta_ptr + rows, mask=used, other=0.0) - shift
        delta = added_tiles(partials_ptr, DELTA, column_tiles, rows, num_rows, ROWS, TILES)
        tail = added_tiles(partials_ptr, TAIL, column_tiles, rows, num_rows, ROWS, TILES)
        reference_peak = highest_tile(
            partials_ptr, REFERENCE_PEAK, column_tiles, rows, num_rows, ROWS, TILES
        )
        reference_total = added_tiles(
            partials_ptr, REFERENCE_SUM, column_tiles, rows, num_rows, ROWS, TILES
        )
        reference_target = exponential(target - target_delta)
        reference_total += reference_target
        near = tl.abs(target_delta) < 0.5
        far = reference_target - target_e + target_e * target_delta
        tail += tl.where(near, target_e * expm1_plus(tl.where(near, target_delta, 0.0)), far)
        mean_delta = (delta + target_e * target_delta) / total
        mean_tail = tail / total
        excess = mean_tail - mean_delta
        is_close = tl.abs(excess) < 0.4
        ratio = logarithm(reference_total) - logarithm(total)
        drift = tl.where(is_close, log1p(excess), ratio)
        kl = tl.where(is_close, mean_tail + log1p_minus(excess), mean_delta + ratio)
        store_statistic(statistics_ptr, 4, rows, num_rows, used, not_negative(kl))
        store_statistic(statistics_ptr, 5, rows, num_rows, used, target_delta + drift)
        reference_lse = target_logit - logprob + drift - shift
        store_statistic(statistics_ptr, 6, rows, num_rows, used, reference_lse)
    if not ONLY_FLAGGED:
        flagged = used & ((peak > LARGEST_EXPONENT) | (reference_peak > LARGEST_EXPONENT))
        tl.store(flagged_ptr + rows, flagged.to(tl.int8), mask=stored)
        raised = tl.maximum(peak, 0.0)
        tl.store(anchor_ptr + rows, anchor + raised, mask=flagged)
        if HAS_REFERENCE:
            moved = shift + raised - tl.maximum(reference_peak, 0.0)
            tl.store(shift_ptr + rows, moved, mask=flagged)


@triton.jit
def store_statistic(statistics_ptr, which, rows, num_rows, used, values):
    tl.store(
        statistics_ptr + which * num_rows + rows, tl.where(used, values, 0.0), mask=rows < num_rows
    )
