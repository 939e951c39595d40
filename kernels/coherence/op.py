"""How coherent a chain of steps is: cosines of neighbours, their mean, and a price on repetition.

`coherence` takes step embeddings; `pooled_coherence` makes them from token hidden states, which
are read once. Trajectories lie one after another, `cu_seqlens_B1` says where each begins. Both
calls are differentiable in the embeddings, run on either device, and give a trajectory the same
bits whatever else is in the batch. Knows no reward but this one and no policy.

Shapes: T = steps of all trajectories, D = embedding, B = trajectories, N = tokens.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pixelis_fast.kernels.checks import check, check_count
from pixelis_fast.kernels.coherence.pool_op import segment_mean
from pixelis_fast.kernels.coherence.steps_op import coherence_forward
from pixelis_fast.kernels.triton_support import chosen_implementation

WIDEST_ROW = 16384
"""Above it a row no longer fits the registers of one program."""


class Coherence(NamedTuple):
    """float32, differentiable.

    Example:
        Coherence(reward_B=[0.71, 0.0], mean_B=[0.71, 0.0], hinge_B=[0.0, 0.0],
                  cosine_T=[0.65, 0.77, 0.0, 0.0])    # trajectories of three steps and of one
    """

    reward_B: Tensor
    """mean - repetition_weight * hinge."""
    mean_B: Tensor
    """Of the trajectory's cosines; 0 without a pair."""
    hinge_B: Tensor
    """Mean of max(0, cosine - repetition_threshold)."""
    cosine_T: Tensor
    """Of steps t and t + 1; 0 for the last step of each trajectory."""


class PooledCoherence(NamedTuple):
    """`Coherence` and the step embeddings it was measured on; float32, differentiable."""

    reward_B: Tensor
    mean_B: Tensor
    hinge_B: Tensor
    cosine_T: Tensor
    steps_TD: Tensor
    """Mean of each step's tokens; 0 for a step without tokens."""


def coherence(
    steps_TD: Tensor,
    cu_seqlens_B1: Tensor,
    pair_weights_T: Tensor | None = None,
    *,
    repetition_threshold: float = 0.9,
    repetition_weight: float = 10.0,
    max_steps: int | None = None,
    implementation: str = "auto",
    threads: int = 1,
) -> Coherence:
    """(T, D), (B + 1,) -> rewards (B,), cosines (T,).

    cosine[t] = steps[t] . steps[t+1] / (|steps[t]| |steps[t+1]|) for neighbours of one trajectory,
    0 with zero gradient where a row is zero. mean and hinge are means over a trajectory's pairs,
    weighted by pair_weights_T[t] for pair (t, t+1) if given. With the defaults two equal steps
    earn 1 - 10 * (1 - 0.9) = 0.

    max_steps: the longest trajectory, where the caller knows it. Up to 32 a GPU needs one launch.
    implementation: "auto" follows the device; "triton" on CPU tensors needs TRITON_INTERPRET=1.
    threads: of the CPU path; no result depends on them.
    """
    path = _checked_path("steps_TD", steps_TD, implementation=implementation, threads=threads)
    _check_bounds("cu_seqlens_B1", cu_seqlens_B1, like=steps_TD)
    has_owner = cu_seqlens_B1.shape[0] > 1 or steps_TD.shape[0] == 0
    check(has_owner, "cu_seqlens_B1", "at least one trajectory for the steps", "none")
    if pair_weights_T is not None:
        _check_weights(pair_weights_T, steps_TD)
        pair_weights_T = pair_weights_T.contiguous()
    if max_steps is not None:
        check_count("max_steps", max_steps)
    outputs = coherence_forward(
        _packed_rows(steps_TD),
        cu_seqlens_B1.contiguous(),
        pair_weights_T,
        float(repetition_threshold),
        float(repetition_weight),
        max_steps,
        path,
        threads,
    )
    return Coherence(*outputs[: len(Coherence._fields)])


def pooled_coherence(
    hidden_ND: Tensor,
    step_offsets_T1: Tensor,
    cu_seqlens_B1: Tensor,
    pair_weights_T: Tensor | None = None,
    *,
    repetition_threshold: float = 0.9,
    repetition_weight: float = 10.0,
    max_steps: int | None = None,
    implementation: str = "auto",
    threads: int = 1,
) -> PooledCoherence:
    """(N, D), (T + 1,), (B + 1,) -> rewards (B,), cosines (T,), steps (T, D).

    steps[t] = mean of hidden[step_offsets[t] : step_offsets[t+1]], in float32, then `coherence` of
    the steps. Tokens before the first and after the last offset belong to no step; their gradient
    is 0. cu_seqlens_B1 counts steps. The other arguments are those of `coherence`.
    """
    path = _checked_path("hidden_ND", hidden_ND, implementation=implementation, threads=threads)
    _check_bounds("step_offsets_T1", step_offsets_T1, like=hidden_ND)
    rows_ND = _packed_rows(hidden_ND)
    steps_TD = segment_mean(rows_ND, step_offsets_T1.contiguous(), path, threads)
    scores = coherence(
        steps_TD,
        cu_seqlens_B1,
        pair_weights_T,
        repetition_threshold=repetition_threshold,
        repetition_weight=repetition_weight,
        max_steps=max_steps,
        implementation=path,
        threads=threads,
    )
    return PooledCoherence(*scores, steps_TD)


def _checked_path(name: str, rows: Tensor, *, implementation: str, threads: int) -> str:
    """-> "triton" or "cpu"."""
    check(isinstance(rows, Tensor), name, "a tensor", type(rows).__name__)
    check(rows.ndim == 2, name, "2 dimensions", f"shape {tuple(rows.shape)}")
    known = rows.dtype in (torch.float32, torch.bfloat16)
    check(known, name, "dtype float32 or bfloat16", rows.dtype)
    width = rows.shape[1]
    fits = width % 8 == 0 and 8 <= width <= WIDEST_ROW
    check(fits, name, f"a multiple of 8 columns up to {WIDEST_ROW}", width)
    path = chosen_implementation(implementation, rows)
    check_count("threads", threads)
    check(path == "cpu" or threads == 1, "threads", "1 outside the CPU path", threads)
    return path


def _check_bounds(name: str, bounds: Tensor, *, like: Tensor) -> None:
    check(isinstance(bounds, Tensor), name, "a tensor", type(bounds).__name__)
    fits = bounds.ndim == 1 and bounds.shape[0] >= 1
    check(fits, name, "1 dimension with at least one value", f"shape {tuple(bounds.shape)}")
    known = bounds.dtype in (torch.int32, torch.int64)
    check(known, name, "dtype int32 or int64", bounds.dtype)
    check(bounds.device == like.device, name, f"device {like.device}", bounds.device)


def _check_weights(weights_T: Tensor, steps_TD: Tensor) -> None:
    name = "pair_weights_T"
    check(isinstance(weights_T, Tensor), name, "a tensor", type(weights_T).__name__)
    fits = weights_T.ndim == 1 and weights_T.shape[0] == steps_TD.shape[0]
    check(fits, name, f"shape ({steps_TD.shape[0]},)", f"shape {tuple(weights_T.shape)}")
    check(weights_T.dtype == torch.float32, name, "dtype float32", weights_T.dtype)
    check(weights_T.device == steps_TD.device, name, f"device {steps_TD.device}", weights_T.device)
    check(not weights_T.requires_grad, name, "constants", "weights that require a gradient")


def _packed_rows(rows: Tensor) -> Tensor:
    """Rows may lie apart or on top of each other; the values of one row may not."""
    return rows if rows.stride(1) == 1 else rows.contiguous()
