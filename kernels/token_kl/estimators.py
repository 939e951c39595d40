"""KL(p‖q) at one token: its value in one form, its gradient in another.

With r = log p_y - log q_y of a token y drawn from p: k1 = r, k2 = r²/2, k3 = e^-r - 1 + r. Each
has the exact KL or nearly it as its mean, but the mean of their gradients differs: k1's is zero,
k2's is the gradient of KL(p‖q), k3's is that of KL(q‖p). "reverse_kl" is r · grad log p_y with an
importance ratio for tokens that another policy drew.

Shapes: N = tokens.
"""

import torch
from torch import Tensor

from pixelis_fast.kernels.checks import check, check_choice
from pixelis_fast.kernels.token_rows import check_number, with_slope

VALUES = ("exact", "k1", "k2", "k3")
GRADIENTS = (*VALUES, "reverse_kl")
SMALL_RATIO = 0.5
"""Below it k3 is a power series: e^-r - 1 + r would lose 2e-7 / r of its value to cancellation."""
INVERSE_FACTORIALS = (1 / 2, -1 / 6, 1 / 24, -1 / 120, 1 / 720, -1 / 5040, 1 / 40320, -1 / 362880)


def check_forms(value: str, gradient: str, clamp: float | None, *, prefix: str = "") -> None:
    check_choice(f"{prefix}value", value, VALUES)
    check_choice(f"{prefix}gradient", gradient, GRADIENTS)
    if clamp is None:
        return
    check_number(f"{prefix}clamp", clamp, positive=True)
    acts = value != "exact" or gradient not in ("exact", "k1")
    got = f"value {value!r} with gradient {gradient!r}"
    check(acts, f"{prefix}clamp", "a form that the sampled ratio bounds beside it", got)


def k3(log_ratio_N: Tensor) -> Tensor:
    """e^-r - 1 + r, never negative, to float32's own precision at every r."""
    series_N = torch.zeros_like(log_ratio_N)
    small_N = log_ratio_N.clamp(-SMALL_RATIO, SMALL_RATIO)
    for factor in reversed(INVERSE_FACTORIALS):
        series_N = series_N * small_N + factor
    direct_N = torch.expm1(-log_ratio_N) + log_ratio_N
    return torch.where(log_ratio_N.abs() <= SMALL_RATIO, small_N**2 * series_N, direct_N)


def mixed_kl(
    kl_N: Tensor,
    logprob_N: Tensor,
    log_ratio_N: Tensor,
    *,
    value: str,
    gradient: str,
    clamp: float | None,
    importance_N: Tensor | None,
) -> Tensor:
    """The value of one form with the gradient of another.

    `clamp` bounds r in both: beyond it the value stays at its bound, and the factor of
    grad log p_y stays at its bound too, so a token far outside is still pulled back.
    """
    if clamp is not None:
        log_ratio_N = log_ratio_N.clamp(-clamp, clamp)
    value_N = _value(value, kl_N, log_ratio_N.detach())
    if gradient == "exact":
        return with_slope(value_N, torch.ones_like(value_N), kl_N)
    return with_slope(value_N, _slope(gradient, log_ratio_N.detach(), importance_N), logprob_N)


def _value(form: str, kl_N: Tensor, log_ratio_N: Tensor) -> Tensor:
    if form == "exact":
        return kl_N
    if form == "k1":
        return log_ratio_N
    return log_ratio_N**2 / 2 if form == "k2" else k3(log_ratio_N)


def _slope(form: str, log_ratio_N: Tensor, importance_N: Tensor | None) -> Tensor:
    """d form / d log p_y."""
    if form == "k1":
        return torch.ones_like(log_ratio_N)
    if form == "k3":
        return -torch.expm1(-log_ratio_N)
    if form == "k2" or importance_N is None:
        return log_ratio_N
    return importance_N * log_ratio_N
