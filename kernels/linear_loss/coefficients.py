"""From gradients of per-token statistics to the coefficients of the gradient of the logits.

    dz_v = p_v (constant + logit · z_v + delta · (z^p_v - z^q_v - shift))
           - target · 1[v = y] + uniform

with shift = z^p_y - z^q_y, so that delta's factor is small where it matters.
Shapes: N = tokens, S = statistics.
"""

from typing import NamedTuple

from torch import Tensor

from pixelis_fast.kernels.linear_loss.problem import LinearStatistics


class Coefficients(NamedTuple):
    """float32 [N] each."""

    constant: Tensor
    logit: Tensor
    delta: Tensor
    target: Tensor
    uniform: Tensor


def coefficients(grads_SN: Tensor, statistics_SN: Tensor, vocabulary: int) -> Coefficients:
    grad = LinearStatistics(*grads_SN)
    value = LinearStatistics(*statistics_SN)
    on_target = grad.logprob + grad.log_ratio
    return Coefficients(
        constant=grad.lse
        - on_target
        + grad.entropy * (value.lse - value.entropy)
        + grad.kl * (value.log_ratio - value.kl),
        logit=-grad.entropy,
        delta=grad.kl,
        target=-on_target,
        uniform=grad.mean_logit / vocabulary,
    )
