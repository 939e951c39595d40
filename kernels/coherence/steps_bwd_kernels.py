"""Triton kernel of the adjacent cosine: backward.

It needs no reduction: each row of the gradient is the row itself and its two neighbours, with three
coefficients. A program fills a tile of rows and columns; a row is fetched from memory once, its
neighbours' tiles come from the cache.

Shapes: T = steps of all trajectories, D = embedding, B = trajectories; a tile has R rows and
C columns.
"""

import triton
import triton.language as tl


@triton.jit
def pair_gradient(
    row_R,
    exists_R,
    owner_ptr,
    cosine_ptr,
    scale_ptr,
    weights_ptr,
    grad_reward_ptr,
    grad_mean_ptr,
    grad_hinge_ptr,
    grad_cosine_ptr,
    threshold,
    repetition_weight,
):
    """-> whether the loss feels pair (row, row + 1), its cosine, the derivative by that cosine."""
    owner_R = tl.load(owner_ptr + row_R, mask=exists_R, other=-1)
    paired_R = owner_R >= 0
    cosine_R = tl.load(cosine_ptr + row_R, mask=paired_R, other=0.0)
    share_R = tl.load(scale_ptr + owner_R, mask=paired_R, other=0.0)
    if weights_ptr is not None:
        share_R *= tl.load(weights_ptr + row_R, mask=paired_R, other=0.0)
    repeats_R = cosine_R > threshold
    slope_R = share_R * 0.0
    if grad_reward_ptr is not None:
        reward_R = tl.load(grad_reward_ptr + owner_R, mask=paired_R, other=0.0)
        slope_R += tl.where(repeats_R, 1.0 - repetition_weight, 1.0) * reward_R
    if grad_mean_ptr is not None:
        slope_R += tl.load(grad_mean_ptr + owner_R, mask=paired_R, other=0.0)
    if grad_hinge_ptr is not None:
        slope_R += tl.load(grad_hinge_ptr + owner_R, mask=paired_R & repeats_R, other=0.0)
    gradient_R = share_R * slope_R
    if grad_cosine_ptr is not None:
        gradient_R += tl.load(grad_cosine_ptr + row_R, mask=paired_R, other=0.0)
    felt_R = gradient_R != 0
    return felt_R, tl.where(felt_R, cosine_R, 0.0), gradient_R


@triton.jit
def load_tile(rows_ptr, row_R, stride, exists_R, column_C, D: tl.constexpr):
    offsets_RC = row_R.to(tl.int64)[:, None] * stride + column_C[None, :]
    mask_RC = exists_R[:, None] & (column_C < D)[None, :]
    return tl.load(rows_ptr + offsets_RC, mask=mask_RC, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["num_steps"])
def coherence_bwd_kernel(
    steps_ptr,
    stride_t,
    weights_ptr,
    cosine_ptr,
    rnorm_ptr,
    owner_ptr,
    scale_ptr,
    grad_reward_ptr,
    grad_mean_ptr,
    grad_hinge_ptr,
    grad_cosine_ptr,
    grad_steps_ptr,
    threshold,
    repetition_weight,
    num_steps,
    D: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    row_R = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    column_C = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    exists_R = row_R < num_steps
    felt_R, cosine_R, after_R = pair_gradient(
        row_R,
        exists_R,
        owner_ptr,
        cosine_ptr,
        scale_ptr,
        weights_ptr,
        grad_reward_ptr,
        grad_mean_ptr,
        grad_hinge_ptr,
        grad_cosine_ptr,
        threshold,
        repetition_weight,
    )
    was_felt_R, was_cosine_R, before_R = pair_gradient(
        row_R - 1,
        exists_R & (row_R > 0),
        owner_ptr,
        cosine_ptr,
        scale_ptr,
        weights_ptr,
        grad_reward_ptr,
        grad_mean_ptr,
        grad_hinge_ptr,
        grad_cosine_ptr,
        threshold,
        repetition_weight,
    )
    rnorm_R = tl.load(rnorm_ptr + row_R, mask=exists_R, other=0.0)
    next_rnorm_R = tl.load(rnorm_ptr + row_R + 1, mask=felt_R, other=0.0)
    last_rnorm_R = tl.load(rnorm_ptr + row_R - 1, mask=was_felt_R, other=0.0)
    along_next_R = after_R * rnorm_R * next_rnorm_R
    along_last_R = before_R * rnorm_R * last_rnorm_R
    along_self_R = -(after_R * cosine_R + before_R * was_cosine_R) * rnorm_R * rnorm_R
    # A neighbour that no pair ties to this row is not read: its NaN must stay its own.
    tile_RC = load_tile(steps_ptr, row_R, stride_t, exists_R, column_C, D)
    next_RC = load_tile(steps_ptr, row_R + 1, stride_t, felt_R, column_C, D)
    last_RC = load_tile(steps_ptr, row_R - 1, stride_t, was_felt_R, column_C, D)
    grad_RC = (
        along_next_R[:, None] * next_RC
        + along_last_R[:, None] * last_RC
        + along_self_R[:, None] * tile_RC
    )
    offsets_RC = row_R.to(tl.int64)[:, None] * D + column_C[None, :]
    mask_RC = exists_R[:, None] & (column_C < D)[None, :]
    tl.store(grad_steps_ptr + offsets_RC, grad_RC, mask=mask_RC)
