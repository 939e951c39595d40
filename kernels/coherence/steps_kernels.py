"""Triton kernels of the adjacent cosine and of what a trajectory makes of it: forward.

A program walks a run of consecutive rows and keeps the row before, so each row is read once and
the first row of the next run a second time. `owner_T` says for pair (t, t + 1) which trajectory it
belongs to, -1 where row t is a trajectory's last. Reductions have a fixed order that depends on
nothing but D and, per trajectory, its length.

Shapes: T = steps of all trajectories, D = embedding, B = trajectories.
"""

import triton
import triton.language as tl

SMALLEST_SQUARE = tl.constexpr(2.0**-126)


@triton.jit
def inverse_norm(square):
    root = tl.sqrt(tl.maximum(square, SMALLEST_SQUARE))
    return tl.where(square < SMALLEST_SQUARE, 0.0, 1.0 / root)


@triton.jit
def load_row(rows_ptr, row, stride, width, column):
    """As stored: whoever computes with it converts it first, and only then waits for it."""
    return tl.load(rows_ptr + row.to(tl.int64) * stride + column, mask=column < width, other=0.0)


@triton.jit
def owner_of(row, bounds_ptr, count, search_steps):
    """The last of `count` segments that begins at or before row; rows may be a vector."""
    low = row * 0
    high = low + count
    for _ in range(search_steps):
        middle = (low + high) // 2
        begins_before = tl.load(bounds_ptr + middle) <= row
        low = tl.where(begins_before, middle, low)
        high = tl.where(begins_before, high, tl.maximum(middle, 1))
    return low


@triton.jit(do_not_specialize=["num_steps", "num_trajectories", "search_steps", "rows_per_program"])
def cosine_fwd_kernel(
    steps_ptr,
    stride_t,
    bounds_ptr,
    cosine_ptr,
    rnorm_ptr,
    owner_ptr,
    num_steps,
    num_trajectories,
    search_steps,
    rows_per_program,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    first = tl.program_id(0) * rows_per_program
    last = tl.minimum(first + rows_per_program, num_steps)
    column = tl.arange(0, BLOCK_D)
    current = load_row(steps_ptr, first, stride_t, D, column).to(tl.float32)
    width = tl.where(first + 1 < num_steps, D, 0)
    ahead = load_row(steps_ptr, first + 1, stride_t, width, column)
    owner = owner_of(first, bounds_ptr, num_trajectories, search_steps)
    end = tl.load(bounds_ptr + owner + 1)
    rnorm = inverse_norm(tl.sum(current * current))
    for offset in range(last - first):
        row = first + offset
        following = ahead.to(tl.float32)
        # The row after next is on its way while this pair is reduced.
        width = tl.where((row + 2 <= last) & (row + 2 < num_steps), D, 0)
        ahead = load_row(steps_ptr, row + 2, stride_t, width, column)
        dot = tl.sum(current * following)
        next_rnorm = inverse_norm(tl.sum(following * following))
        while (end <= row) & (owner + 1 < num_trajectories):
            owner += 1
            end = tl.load(bounds_ptr + owner + 1)
        paired = row + 1 < end
        tl.store(cosine_ptr + row, tl.where(paired, dot * rnorm * next_rnorm, 0.0))
        tl.store(rnorm_ptr + row, rnorm)
        tl.store(owner_ptr + row, tl.where(paired, owner, -1))
        current = following
        rnorm = next_rnorm


@triton.jit
def store_means(
    trajectory, weighted, hinged, total, weight, reward_ptr, mean_ptr, hinge_ptr, scale_ptr
):
    scale = tl.where(total > 0, 1.0 / tl.where(total > 0, total, 1.0), 0.0)
    mean = weighted * scale
    hinge = hinged * scale
    tl.store(reward_ptr + trajectory, mean - weight * hinge)
    tl.store(mean_ptr + trajectory, mean)
    tl.store(hinge_ptr + trajectory, hinge)
    tl.store(scale_ptr + trajectory, scale)


@triton.jit(do_not_specialize=["num_steps"])
def means_fwd_kernel(
    cosine_ptr,
    bounds_ptr,
    weights_ptr,
    reward_ptr,
    mean_ptr,
    hinge_ptr,
    scale_ptr,
    threshold,
    repetition_weight,
    num_steps,
    BLOCK_T: tl.constexpr,
):
    trajectory = tl.program_id(0)
    start = tl.maximum(tl.load(bounds_ptr + trajectory), 0)
    last = tl.minimum(tl.load(bounds_ptr + trajectory + 1), num_steps) - 1
    weighted_T = tl.zeros([BLOCK_T], tl.float32)
    hinged_T = tl.zeros([BLOCK_T], tl.float32)
    total_T = tl.zeros([BLOCK_T], tl.float32)
    for offset in range(0, last - start, BLOCK_T):
        row_T = start + offset + tl.arange(0, BLOCK_T)
        inside_T = row_T < last
        cosine_T = tl.load(cosine_ptr + row_T, mask=inside_T, other=0.0)
        weight_T = tl.where(inside_T, 1.0, 0.0)
        if weights_ptr is not None:
            weight_T = tl.load(weights_ptr + row_T, mask=inside_T, other=0.0)
        # A weight of 0 leaves a pair out, whatever its cosine.
        counts_T = weight_T != 0
        over_T = tl.where(cosine_T > threshold, cosine_T - threshold, 0.0)
        weighted_T += tl.where(counts_T, weight_T * cosine_T, 0.0)
        hinged_T += tl.where(counts_T, weight_T * over_T, 0.0)
        total_T += weight_T
    store_means(
        trajectory,
        tl.sum(weighted_T),
        tl.sum(hinged_T),
        tl.sum(total_T),
        repetition_weight,
        reward_ptr,
        mean_ptr,
        hinge_ptr,
        scale_ptr,
    )


@triton.jit(do_not_specialize=["num_steps"])
def trajectory_fwd_kernel(
    steps_ptr,
    stride_t,
    bounds_ptr,
    weights_ptr,
    cosine_ptr,
    rnorm_ptr,
    owner_ptr,
    reward_ptr,
    mean_ptr,
    hinge_ptr,
    scale_ptr,
    threshold,
    repetition_weight,
    num_steps,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Both kernels above in one launch: a program walks one whole trajectory."""
    trajectory = tl.program_id(0)
    start = tl.maximum(tl.load(bounds_ptr + trajectory), 0)
    end = tl.minimum(tl.load(bounds_ptr + trajectory + 1), num_steps)
    column = tl.arange(0, BLOCK_D)
    width = tl.where(start < end, D, 0)
    current = load_row(steps_ptr, start, stride_t, width, column).to(tl.float32)
    width = tl.where(start + 1 < end, D, 0)
    ahead = load_row(steps_ptr, start + 1, stride_t, width, column)
    rnorm = inverse_norm(tl.sum(current * current))
    weighted = 0.0
    hinged = 0.0
    total = 0.0
    for offset in range(end - start):
        row = start + offset
        following = ahead.to(tl.float32)
        width = tl.where(row + 2 < end, D, 0)
        ahead = load_row(steps_ptr, row + 2, stride_t, width, column)
        dot = tl.sum(current * following)
        next_rnorm = inverse_norm(tl.sum(following * following))
        paired = row + 1 < end
        cosine = tl.where(paired, dot * rnorm * next_rnorm, 0.0)
        weight = tl.where(paired, 1.0, 0.0)
        if weights_ptr is not None:
            weight = tl.load(weights_ptr + row, mask=paired, other=0.0)
        over = tl.where(cosine > threshold, cosine - threshold, 0.0)
        weighted += tl.where(weight != 0, weight * cosine, 0.0)
        hinged += tl.where(weight != 0, weight * over, 0.0)
        total += weight
        tl.store(cosine_ptr + row, cosine)
        tl.store(rnorm_ptr + row, rnorm)
        tl.store(owner_ptr + row, tl.where(paired, trajectory, -1))
        current = following
        rnorm = next_rnorm
    store_means(
        trajectory,
        weighted,
        hinged,
        total,
        repetition_weight,
        reward_ptr,
        mean_ptr,
        hinge_ptr,
        scale_ptr,
    )
