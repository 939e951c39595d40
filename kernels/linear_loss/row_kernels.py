"""Rows moved and multiplied: compaction, its way back, and each row's target logit.

Shapes: N = tokens, D = hidden width, V = vocabulary. One program per row; D in blocks.
"""

import triton
import triton.language as tl

from pixelis_fast.kernels.linear_loss.triton_math import capped


@triton.jit
def copy_rows_kernel(
    source_ptr,
    index_ptr,
    factor_ptr,
    kept_ptr,
    out_ptr,
    width,
    HAS_FACTOR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out[r] = source[index[r]] · factor[index[r]] where kept[r], else zeros.

    source and out (N, D); index (N) int64; kept (N) bool as int8; factor (N) float32. A row that
    is not kept is never read, so what stands in it (padding may be NaN) cannot spread.
    """
    row = tl.program_id(0).to(tl.int64)
    index = tl.load(index_ptr + row)
    readable = tl.load(kept_ptr + row).to(tl.int32) * width
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < width
        value = tl.load(source_ptr + index * width + column, mask=column < readable, other=0.0)
        value = value.to(tl.float32)
        if HAS_FACTOR:
            value = tl.where(column < readable, value * tl.load(factor_ptr + index), 0.0)
        tl.store(out_ptr + row * width + column, value.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def target_logit_kernel(
    hidden_ptr,
    weight_ptr,
    targets_ptr,
    out_ptr,
    width,
    scale,
    softcap,
    HAS_SOFTCAP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out[r] = capped(hidden[r] · weight[targets[r]]); hidden (N, D), weight (V, D), out fp32."""
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets_ptr + row).to(tl.int64)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < width
        hidden = tl.load(hidden_ptr + row * width + column, mask=inside, other=0.0).to(tl.float32)
        weight = tl.load(weight_ptr + target * width + column, mask=inside, other=0.0)
        total += hidden * weight.to(tl.float32)
    tl.store(out_ptr + row, capped(tl.sum(total), scale, softcap, HAS_SOFTCAP))
