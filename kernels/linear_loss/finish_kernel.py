"""Exponentials -> the gradient of the logits, elementwise, for every loss that is not plain.

Shapes: N = rows, C = columns of this slice (rows of the buffers may be padded to `stride`).
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=("num_rows", "first_column", "columns"))
def finish_kernel(
    exponentials_ptr,
    deltas_ptr,
    gradient_ptr,
    rows_ptr,
    targets_ptr,
    count_ptr,
    num_rows,
    first_column,
    columns,
    stride,
    delta_stride,
    gradient_stride,
    scale,
    softcap,
    HAS_DELTA: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    PADDING: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """gradient = (p (constant + logit z + delta d) + uniform) · dz/draw; the target's is given.

    exponentials, deltas, gradient (N, C); rows (8, N) float32: anchor, 1 / sum, constant, logit,
    delta, uniform, target gradient, target logit. Rows from count to the next multiple of PADDING
    get zeros: a product over rows reads that far.
    """
    count = tl.load(count_ptr)
    row_start = tl.program_id(0) * ROWS
    if row_start >= tl.cdiv(count, PADDING) * PADDING:
        return
    row = row_start + tl.arange(0, ROWS)
    used = row < count
    anchor = tl.load(rows_ptr + row, mask=used, other=0.0)[:, None]
    inverse = tl.load(rows_ptr + num_rows + row, mask=used, other=0.0)[:, None]
    constant = tl.load(rows_ptr + 2 * num_rows + row, mask=used, other=0.0)[:, None]
    logit = tl.load(rows_ptr + 3 * num_rows + row, mask=used, other=0.0)[:, None]
    slope = tl.load(rows_ptr + 4 * num_rows + row, mask=used, other=0.0)[:, None]
    uniform = tl.load(rows_ptr + 5 * num_rows + row, mask=used, other=0.0)[:, None]
    on_target = tl.load(rows_ptr + 6 * num_rows + row, mask=used, other=0.0)[:, None]
    target = tl.load(targets_ptr + row, mask=used, other=-1)[:, None]

    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = used[:, None] & (column < columns)
    wide = row[:, None].to(tl.int64)
    e = tl.load(exponentials_ptr + wide * stride + column, mask=inside, other=0.0).to(tl.float32)
    z = anchor + tl.log(tl.where(e > 0, e, 1.0))
    factor = constant + logit * z
    if HAS_DELTA:
        d = tl.load(deltas_ptr + wide * delta_stride + column, mask=inside, other=0.0)
        factor += slope * d.to(tl.float32)
    gradient = e * inverse * factor + uniform
    gradient = tl.where(first_column + column == target, on_target, gradient)
    if HAS_SOFTCAP:
        target_logit = tl.load(rows_ptr + 7 * num_rows + row, mask=used, other=0.0)[:, None]
        z = tl.where(first_column + column == target, target_logit, z)
        level = z / (scale * softcap)
        gradient *= tl.where(tl.abs(level) < 1.0, 1.0 - level * level, 0.0)
    gradient = tl.where(used[:, None], gradient * scale, 0.0)
    written = (row < num_rows)[:, None] & (column < columns)
    out = gradient.to(gradient_ptr.dtype.element_ty)
    tl.store(gradient_ptr + wide * gradient_stride + column, out, mask=written)
