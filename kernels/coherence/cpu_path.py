"""Hands torch tensors to the C++ kernels: bfloat16 as the 16-bit integers numpy has.

Nothing is copied but indices that are not int64. Shapes: T = steps of all trajectories,
D = embedding, B = trajectories, N = tokens.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixelis_fast.kernels import _cpu
from pixelis_fast.kernels.coherence.steps_buffers import new_buffer


def coherence_forward(
    steps_TD: Tensor,
    bounds_B1: Tensor,
    weights_T: Tensor | None,
    threshold: float,
    repetition_weight: float,
    threads: int,
    *,
    simd: str | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """-> reward, mean, hinge (B,), cosine, rnorm (T,), owner (T,) int32, scale (B,)."""
    num_steps, num_trajectories = len(steps_TD), len(bounds_B1) - 1
    reward_B, mean_B, hinge_B, scale_B = (new_buffer(steps_TD, num_trajectories) for _ in range(4))
    cosine_T, rnorm_T = (new_buffer(steps_TD, num_steps) for _ in range(2))
    owner_T = new_buffer(steps_TD, num_steps, dtype=torch.int32)
    _cpu.coherence_forward(
        numpy_rows(steps_TD),
        numpy_index(bounds_B1),
        numpy_or_none(weights_T),
        threshold,
        repetition_weight,
        reward_B.numpy(),
        mean_B.numpy(),
        hinge_B.numpy(),
        cosine_T.numpy(),
        rnorm_T.numpy(),
        owner_T.numpy(),
        scale_B.numpy(),
        threads,
        simd=simd,
    )
    return reward_B, mean_B, hinge_B, cosine_T, rnorm_T, owner_T, scale_B


def coherence_backward(
    steps_TD: Tensor,
    weights_T: Tensor | None,
    saved: tuple[Tensor, Tensor, Tensor, Tensor],
    gradients: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None],
    threshold: float,
    repetition_weight: float,
    threads: int,
    *,
    simd: str | None = None,
) -> Tensor:
    """saved: cosine, rnorm, owner, scale. gradients: of reward, mean, hinge, cosine."""
    cosine_T, rnorm_T, owner_T, scale_B = saved
    reward_B, mean_B, hinge_B, grad_cosine_T = gradients
    grad_TD = new_buffer(steps_TD, *steps_TD.shape, dtype=steps_TD.dtype)
    _cpu.coherence_backward(
        numpy_rows(steps_TD),
        numpy_or_none(weights_T),
        cosine_T.detach().numpy(),
        rnorm_T.numpy(),
        owner_T.numpy(),
        scale_B.numpy(),
        numpy_or_none(reward_B),
        numpy_or_none(mean_B),
        numpy_or_none(hinge_B),
        numpy_or_none(grad_cosine_T),
        threshold,
        repetition_weight,
        numpy_rows(grad_TD),
        threads,
        simd=simd,
    )
    return grad_TD


def segment_mean_forward(
    hidden_ND: Tensor, offsets_T1: Tensor, threads: int, *, simd: str | None = None
) -> Tensor:
    steps_TD = new_buffer(hidden_ND, len(offsets_T1) - 1, hidden_ND.shape[1])
    rows, bounds = numpy_rows(hidden_ND), numpy_index(offsets_T1)
    _cpu.segment_mean_forward(rows, bounds, steps_TD.numpy(), threads, simd=simd)
    return steps_TD


def segment_mean_backward(
    grad_TD: Tensor,
    offsets_T1: Tensor,
    num_tokens: int,
    dtype: torch.dtype,
    threads: int,
    *,
    simd: str | None = None,
) -> Tensor:
    grad_ND = new_buffer(grad_TD, num_tokens, grad_TD.shape[1], dtype=dtype)
    rows, bounds = numpy_rows(grad_TD.contiguous()), numpy_index(offsets_T1)
    _cpu.segment_mean_backward(rows, bounds, numpy_rows(grad_ND), threads, simd=simd)
    return grad_ND


def numpy_rows(rows: Tensor) -> NDArray[Any]:
    """The same memory, writable; bfloat16 as int16."""
    rows = rows.detach()
    return (rows.view(torch.int16) if rows.dtype == torch.bfloat16 else rows).numpy()


def numpy_or_none(values: Tensor | None) -> NDArray[np.float32] | None:
    return None if values is None else values.detach().numpy()


def numpy_index(bounds: Tensor) -> NDArray[np.int64]:
    return bounds.detach().to(torch.int64).contiguous().numpy()
