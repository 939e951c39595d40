"""The adjacent cosine as torch operators: fake kernels for the compiler, autograd, two paths.

`coherence` in op.py is the public call; what arrives here has the right shapes and types. Values
are checked here, where the compiler does not look; those in tensors on the CPU only: on a GPU that
would wait for the device.

Shapes: T = steps of all trajectories, D = embedding, B = trajectories.
"""

import math
from typing import Any

import torch
from torch import Tensor

from pixelis_fast.kernels.checks import check

ONE_LAUNCH_STEPS = 32
"""Longest trajectory that one program walks alone. A longer one would keep the device waiting."""
NUM_GRADIENTS = 4
"""Reward, mean, hinge and cosine carry gradient; rnorm, owner and scale are for backward."""


@torch.library.custom_op("pixelis_fast::coherence", mutates_args=())
def coherence_forward(
    steps_TD: Tensor,
    bounds_B1: Tensor,
    weights_T: Tensor | None,
    threshold: float,
    repetition_weight: float,
    max_steps: int | None,
    implementation: str,
    threads: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """-> reward, mean, hinge (B,), cosine, rnorm (T,), owner (T,) int32, scale (B,)."""
    check_repetition(threshold, repetition_weight)
    if bounds_B1.device.type == "cpu":
        check_bounds("cu_seqlens_B1", bounds_B1, total=len(steps_TD), max_steps=max_steps)
        check_weights(weights_T)
    if implementation == "triton":
        from pixelis_fast.kernels.coherence import steps_triton

        with torch.cuda.device_of(steps_TD):
            return steps_triton.forward(
                steps_TD,
                bounds_B1,
                weights_T,
                threshold=threshold,
                repetition_weight=repetition_weight,
                one_launch=max_steps is not None and max_steps <= ONE_LAUNCH_STEPS,
            )
    from pixelis_fast.kernels.coherence import cpu_path

    return cpu_path.coherence_forward(
        steps_TD, bounds_B1, weights_T, threshold, repetition_weight, threads
    )


@coherence_forward.register_fake
def _(
    steps_TD: Tensor,
    bounds_B1: Tensor,
    weights_T: Tensor | None,
    threshold: float,
    repetition_weight: float,
    max_steps: int | None,
    implementation: str,
    threads: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    num_steps, num_trajectories = steps_TD.shape[0], bounds_B1.shape[0] - 1

    def values(count: int) -> Tensor:
        return steps_TD.new_empty(count, dtype=torch.float32)

    return (
        *(values(num_trajectories), values(num_trajectories), values(num_trajectories)),
        *(values(num_steps), values(num_steps)),
        steps_TD.new_empty(num_steps, dtype=torch.int32),
        values(num_trajectories),
    )


@torch.library.custom_op("pixelis_fast::coherence_backward", mutates_args=())
def coherence_backward(
    steps_TD: Tensor,
    weights_T: Tensor | None,
    cosine_T: Tensor,
    rnorm_T: Tensor,
    owner_T: Tensor,
    scale_B: Tensor,
    grad_reward_B: Tensor | None,
    grad_mean_B: Tensor | None,
    grad_hinge_B: Tensor | None,
    grad_cosine_T: Tensor | None,
    threshold: float,
    repetition_weight: float,
    implementation: str,
    threads: int,
) -> Tensor:
    """-> the gradient of steps_TD, in its dtype."""
    saved = (cosine_T, rnorm_T, owner_T, scale_B)
    given = (grad_reward_B, grad_mean_B, grad_hinge_B, grad_cosine_T)
    reward, mean, hinge, cosine = (None if one is None else one.contiguous() for one in given)
    gradients = (reward, mean, hinge, cosine)
    if implementation == "triton":
        from pixelis_fast.kernels.coherence import steps_triton

        with torch.cuda.device_of(steps_TD):
            return steps_triton.backward(
                steps_TD,
                weights_T,
                saved,
                gradients,
                threshold=threshold,
                repetition_weight=repetition_weight,
            )
    from pixelis_fast.kernels.coherence import cpu_path

    return cpu_path.coherence_backward(
        steps_TD, weights_T, saved, gradients, threshold, repetition_weight, threads
    )


@coherence_backward.register_fake
def _(steps_TD: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(steps_TD, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    steps_TD, _, weights_T, threshold, repetition_weight, _, implementation, threads = inputs
    _, _, _, cosine_T, rnorm_T, owner_T, scale_B = output
    ctx.save_for_backward(steps_TD, weights_T, cosine_T, rnorm_T, owner_T, scale_B)
    ctx.mark_non_differentiable(rnorm_T, owner_T, scale_B)
    ctx.set_materialize_grads(False)
    ctx.options = (threshold, repetition_weight, implementation, threads)


def _backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    steps_TD, weights_T, *saved = ctx.saved_tensors
    needed = gradients[:NUM_GRADIENTS]
    grad_TD = None
    if ctx.needs_input_grad[0] and any(one is not None for one in needed):
        grad_TD = coherence_backward(steps_TD, weights_T, *saved, *needed, *ctx.options)
    return grad_TD, *(None for _ in range(7))


coherence_forward.register_autograd(_backward, setup_context=_setup_context)


def check_bounds(name: str, bounds: Tensor, *, total: int, max_steps: int | None) -> None:
    """0 = bounds[0] <= bounds[1] <= … = total."""
    lengths = bounds.diff()
    spans = int(bounds[0]) == 0 and int(bounds[-1]) == total
    check(spans, name, f"a first value of 0 and a last of {total}", f"{bounds[0]}, {bounds[-1]}")
    check_sorted(name, bounds)
    longest = int(lengths.max()) if len(lengths) else 0
    check(
        max_steps is None or longest <= max_steps,
        "max_steps",
        f"at least {longest}, the longest trajectory",
        max_steps,
    )


def check_sorted(name: str, bounds: Tensor) -> None:
    shrinks = (bounds.diff() < 0).nonzero()
    at = int(shrinks[0]) + 1 if len(shrinks) else None
    check(at is None, name, "values that never fall", f"a fall at index {at}")


def check_repetition(threshold: float, weight: float) -> None:
    check(math.isfinite(threshold), "repetition_threshold", "a finite number", threshold)
    valid = math.isfinite(weight) and weight >= 0
    check(valid, "repetition_weight", "a finite number of at least 0", weight)


def check_weights(weights_T: Tensor | None) -> None:
    if weights_T is None:
        return
    valid = bool((weights_T >= 0).all()) and bool(weights_T.isfinite().all())
    check(valid, "pair_weights_T", "finite weights of at least 0", "others")
