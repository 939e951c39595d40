"""Coherence straight from tokens: steps are means of their hidden states.

sum over trajectories of upstream times reward, with its gradient to every token.
Shapes: N = tokens, T = steps, D = width, B = trajectories.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.loss_inputs import TRAJECTORY, Inputs
from bench.loss_provider import Call, Provider
from bench.loss_rows import StepsTruth, eager_rewards, owners
from bench.loss_truth import Output


def _eager(
    hidden_ND: Tensor, step_N: Tensor, sizes_T1: Tensor, owner_T: Tensor, upstream_B: Tensor
) -> Tensor:
    """(B), as people write it: sums by index, in float32."""
    zero_TD = torch.zeros(len(sizes_T1), hidden_ND.shape[1], device=hidden_ND.device)
    steps_TD = zero_TD.index_add(0, step_N, hidden_ND.float()) / sizes_T1
    return eager_rewards(steps_TD, owner_T, upstream_B)


def eager_pooled(inputs: Inputs, rewards: Callable[..., Tensor] = _eager) -> Call:
    (hidden_ND,), rest = inputs.leaves, inputs.rest
    owned = (owners(rest["offsets"]), rest["offsets"].diff()[:, None], owners(rest["bounds"]))

    def call() -> Output:
        found_B = rewards(hidden_ND, *owned, rest["upstream"])
        return Output((rest["upstream"] * found_B).sum(), found_B)

    return call


def compiled_pooled(inputs: Inputs) -> Call:
    return eager_pooled(inputs, torch.compile(_eager, dynamic=False))


def our_pooled(inputs: Inputs) -> Call:
    from pixelis_fast.kernels.coherence import pooled_coherence

    (hidden_ND,), rest = inputs.leaves, inputs.rest
    threads = torch.get_num_threads() if hidden_ND.device.type == "cpu" else 1

    def call() -> Output:
        bounds = (rest["offsets"], rest["bounds"])
        found = pooled_coherence(hidden_ND, *bounds, max_steps=TRAJECTORY, threads=threads)
        return Output((rest["upstream"] * found.reward_B).sum(), found.reward_B)

    return call


POOLED = (
    Provider("eager", "reward", eager_pooled),
    Provider("compile", "reward", compiled_pooled, compiles=True),
    Provider("ours", "reward", our_pooled),
)


class PooledTruth(StepsTruth):
    """Steps are float64 means of their tokens."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        from pixelis_fast.kernels.coherence.reference import segment_mean_reference

        hidden_ND = tensors["hidden"].detach().double().requires_grad_()
        self.descend(hidden_ND, segment_mean_reference(hidden_ND, tensors["offsets"]), tensors)
