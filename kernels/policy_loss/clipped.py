"""The clipped policy gradient of one token: its value, its slope, and which bound stopped it.

Shapes: N = tokens.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pixelis_fast.kernels.checks import check
from pixelis_fast.kernels.token_rows import with_slope

LARGEST_LOG_RATIO = 20.0
"""Beyond it log(policy / behaviour) is held, so that a ratio times an advantage of 0 is 0."""


class Clipped(NamedTuple):
    """float32 or bool [N], all 0 in rows that are not valid except the ratio, 1 there."""

    loss_N: Tensor
    """-min(ratio A, clip(ratio) A), differentiable to the policy's log-probability."""
    ratio_N: Tensor
    log_ratio_N: Tensor
    low_N: Tensor
    """The lower bound stopped the gradient."""
    high_N: Tensor
    """The upper bound did."""


def check_clip(clip: tuple[float, float]) -> None:
    check(len(clip) == 2, "clip", "two numbers, low and high", clip)
    low, high = clip
    check(0 <= low <= 1 and 0 <= high < float("inf"), "clip", "0 <= low <= 1 and 0 <= high", clip)


def clipped_policy(
    logprob_N: Tensor,
    behaviour_N: Tensor,
    advantages_N: Tensor,
    valid_N: Tensor,
    clip: tuple[float, float],
) -> Clipped:
    """`clip` = (low, high): the ratio counts within [1 - low, 1 + high]."""
    low, high = clip
    log_ratio_N = torch.where(valid_N, logprob_N.detach() - behaviour_N, 0.0)
    log_ratio_N = log_ratio_N.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    ratio_N = log_ratio_N.exp()
    low_N = (advantages_N < 0) & (ratio_N < 1 - low)
    high_N = (advantages_N > 0) & (ratio_N > 1 + high)
    bounded_N = ratio_N.clamp(1 - low, 1 + high)
    value_N = -torch.minimum(ratio_N * advantages_N, bounded_N * advantages_N)
    slope_N = torch.where(low_N | high_N, 0.0, -ratio_N * advantages_N)
    return Clipped(with_slope(value_N, slope_N, logprob_N), ratio_N, log_ratio_N, low_N, high_N)
