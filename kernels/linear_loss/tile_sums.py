"""What both statistics kernels do with a tile of logits: centre them, exclude, add up, store sums.

Exponentials are taken relative to a per-row anchor (the target's own logit), so bfloat16's
exponent range is enough to store them and backward needs no tile maxima. The target's column is
left out of every sum: log1p of the rest is then exact however near 1 p is. Partial sums are plain
stores, one per row and subtile: no atomics, and the order of every sum depends on the vocabulary
alone, never on the batch.

Shapes: N = tokens, V = vocabulary.
"""

import triton
import triton.language as tl

SUM, CENTRED, PEAK, LOGITS = (tl.constexpr(i) for i in range(4))
DELTA, TAIL, REFERENCE_SUM, REFERENCE_PEAK = (tl.constexpr(i) for i in range(4, 8))
"""Rows of the partial sums; the last four only with a reference."""
NUM_SUMS, NUM_PAIR_SUMS = 4, 8
UNSPECIALISED = ("num_rows", "vocabulary", "first_column", "end_column", "stored_columns")
"""Sizes that change from call to call: one machine code for all of them."""
ABSENT = tl.constexpr(-1e30)
"""In place of a logit that takes no part: its exponential is 0, and 0 times it is 0, not NaN."""


@triton.jit
def rows_to_visit(count_ptr, flagged_ptr, num_rows, ONLY_FLAGGED: tl.constexpr):
    """Valid rows; none where flagged ones are wanted and flagged[num_rows] denies there are any."""
    count = tl.load(count_ptr)
    if ONLY_FLAGGED:
        count = tl.where(tl.load(flagged_ptr + num_rows) != 0, count, 0)
    return count


@triton.jit
def is_wanted(flagged_ptr, rows, num_rows, ONLY_FLAGGED: tl.constexpr):
    """Whether a tile with these rows has to run."""
    wanted = True
    if ONLY_FLAGGED:
        flagged = tl.load(flagged_ptr + rows, mask=rows < num_rows, other=0)
        wanted = tl.max(flagged.to(tl.int32)) != 0
    return wanted


@triton.jit
def store_sum(sums_ptr, which, sums_stride, rows, num_rows, values):
    """sums_ptr points at this subtile's first row of the first sum."""
    offset = tl.zeros((), dtype=tl.int64) + which * sums_stride
    tl.store(sums_ptr + offset + rows, values, mask=rows < num_rows)


@triton.jit
def store_sums(sums_ptr, sums_stride, rows, num_rows, e, centred):
    """What every run needs: sum of e, of e · (z - anchor), and the largest z - anchor."""
    store_sum(sums_ptr, SUM, sums_stride, rows, num_rows, tl.sum(e, 1))
    store_sum(sums_ptr, CENTRED, sums_stride, rows, num_rows, tl.sum(e * centred, 1))
    store_sum(sums_ptr, PEAK, sums_stride, rows, num_rows, tl.max(centred, 1))


@triton.jit
def centred_logits(z, rows, columns, anchor_ptr, targets_ptr, num_rows, vocabulary):
    """z - anchor; ABSENT at the target, which every sum leaves out, and beyond the vocabulary."""
    anchor = tl.load(anchor_ptr + rows, mask=rows < num_rows, other=0.0)
    target = tl.load(targets_ptr + rows, mask=rows < num_rows, other=0).to(tl.int32)
    others = (columns < vocabulary)[None, :] & (columns[None, :] != target[:, None])
    return tl.where(others, z - anchor[:, None], ABSENT)
