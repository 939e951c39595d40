"""The truth: KL and its estimators from whole logits, gradients by autograd (float64 in tests).

Shapes: N = tokens, D = hidden width of p, E = of q, V = vocabulary.
"""

import torch
from torch import Tensor

from pixelis_fast.kernels.linear_loss import ReferenceHead
from pixelis_fast.kernels.linear_loss.reference import reference_statistics


def token_kl_reference(
    hidden_p_ND: Tensor,
    weight_p_VD: Tensor,
    hidden_q_NE: Tensor,
    weight_q_VE: Tensor,
    targets_N: Tensor,
    *,
    valid_N: Tensor | None = None,
    value: str = "exact",
    gradient: str = "exact",
    clamp: float | None = None,
    importance_N: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """The value of one form, the gradient of another."""
    found = reference_statistics(
        hidden_p_ND,
        weight_p_VD,
        targets_N,
        reference=ReferenceHead(hidden_q_NE, weight_q_VE),
        temperature=temperature,
        softcap=softcap,
    )
    bound = torch.inf if clamp is None else clamp
    limited_N = found.log_ratio.clamp(-bound, bound)
    value_N = found.kl if value == "exact" else estimator(value, limited_N)
    if gradient == "exact":
        moving_N = found.kl
    elif gradient == "reverse_kl":
        ratio_N = torch.ones_like(limited_N) if importance_N is None else importance_N
        moving_N = (ratio_N.to(limited_N) * limited_N).detach() * found.logprob
    else:
        moving_N = extended(gradient, found.log_ratio, limited_N.detach())
    kl_N = value_N.detach() + moving_N - moving_N.detach()
    return kl_N if valid_N is None else torch.where(valid_N, kl_N, 0.0)


def estimator(form: str, log_ratio_N: Tensor) -> Tensor:
    if form == "k1":
        return log_ratio_N
    return log_ratio_N**2 / 2 if form == "k2" else torch.exp(-log_ratio_N) - 1 + log_ratio_N


def extended(form: str, log_ratio_N: Tensor, limited_N: Tensor) -> Tensor:
    """The estimator, continued by its tangent beyond the clamp: its slope stays where it was."""
    slope_N = {
        "k1": torch.ones_like(limited_N),
        "k2": limited_N,
        "k3": 1 - torch.exp(-limited_N),
    }[form]
    tangent_N = estimator(form, limited_N) + slope_N * (log_ratio_N - limited_N)
    return torch.where(log_ratio_N == limited_N, estimator(form, log_ratio_N), tangent_N)
