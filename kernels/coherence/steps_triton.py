"""Launches the kernels of steps_kernels.py and steps_bwd_kernels.py: sizes, grids, buffers.

Nothing here depends on the number of steps but the grid and how many rows a program walks, and
neither changes a result. Imported only when a kernel is about to run.

Shapes: T = steps of all trajectories, D = embedding, B = trajectories.
"""

import torch
from torch import Tensor

from pixelis_fast.kernels.coherence.steps_buffers import new_buffer
from pixelis_fast.kernels.coherence.steps_bwd_kernels import coherence_bwd_kernel
from pixelis_fast.kernels.coherence.steps_kernels import (
    cosine_fwd_kernel,
    means_fwd_kernel,
    trajectory_fwd_kernel,
)
from pixelis_fast.kernels.triton_support import num_programs, scratch_dtype

ROWS_PER_PROGRAM = (2, 16)
"""Few, so that a small problem still fills the device; many, so that few rows are read twice."""
PROGRAMS_PER_MULTIPROCESSOR = 4
MEANS_BLOCK = 512
TILE_ROWS, TILE_COLUMNS, TILE_WARPS = 8, 256, 4


def row_block(width: int) -> tuple[int, int]:
    """-> BLOCK_D and warps of a program that keeps whole rows: 16 values a thread."""
    block = 1 << max(width - 1, 15).bit_length()
    return block, min(max(block // 512, 1), 16)


def forward(
    steps_TD: Tensor,
    bounds_B1: Tensor,
    weights_T: Tensor | None,
    *,
    threshold: float,
    repetition_weight: float,
    one_launch: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """-> reward, mean, hinge (B,), cosine, rnorm (T,), owner (T,) int32, scale (B,)."""
    num_steps, width = steps_TD.shape
    num_trajectories = len(bounds_B1) - 1
    cosine_T, rnorm_T = (new_buffer(steps_TD, num_steps) for _ in range(2))
    owner_T = new_buffer(steps_TD, num_steps, dtype=torch.int32)
    reward_B, mean_B, hinge_B, scale_B = (new_buffer(steps_TD, num_trajectories) for _ in range(4))
    per_row = (cosine_T, rnorm_T, owner_T)
    per_trajectory = (reward_B, mean_B, hinge_B, scale_B, threshold, repetition_weight, num_steps)
    block, warps = row_block(width)
    constants = {"D": width, "BLOCK_D": block, "num_warps": warps}
    rows = (steps_TD, steps_TD.stride(0), bounds_B1)
    if one_launch and num_trajectories:
        trajectory_fwd_kernel[(num_trajectories,)](
            *rows, weights_T, *per_row, *per_trajectory, **constants
        )
    elif num_trajectories:
        if num_steps:
            run = rows_per_program(num_steps, steps_TD.device)
            cosine_fwd_kernel[(-(-num_steps // run),)](
                *rows,
                *per_row,
                num_steps,
                num_trajectories,
                num_trajectories.bit_length(),
                run,
                **constants,
            )
        means_fwd_kernel[(num_trajectories,)](
            cosine_T, bounds_B1, weights_T, *per_trajectory, BLOCK_T=MEANS_BLOCK
        )
    return reward_B, mean_B, hinge_B, cosine_T, rnorm_T, owner_T, scale_B


def rows_per_program(num_steps: int, device: torch.device) -> int:
    programs = PROGRAMS_PER_MULTIPROCESSOR * num_programs(device)
    fewest, most = ROWS_PER_PROGRAM
    return min(max(-(-num_steps // programs), fewest), most)


def backward(
    steps_TD: Tensor,
    weights_T: Tensor | None,
    saved: tuple[Tensor, Tensor, Tensor, Tensor],
    gradients: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None],
    *,
    threshold: float,
    repetition_weight: float,
) -> Tensor:
    """saved: cosine, rnorm, owner, scale. gradients: of reward, mean, hinge, cosine."""
    num_steps, width = steps_TD.shape
    grad_TD = new_buffer(steps_TD, num_steps, width, dtype=scratch_dtype(steps_TD.dtype))
    grid = (-(-num_steps // TILE_ROWS), -(-width // TILE_COLUMNS))
    if num_steps:
        coherence_bwd_kernel[grid](
            steps_TD,
            steps_TD.stride(0),
            weights_T,
            *saved,
            *gradients,
            grad_TD,
            threshold,
            repetition_weight,
            num_steps,
            D=width,
            BLOCK_R=TILE_ROWS,
            BLOCK_C=TILE_COLUMNS,
            num_warps=TILE_WARPS,
        )
    return grad_TD.to(steps_TD.dtype)
