"""The truth: the sum of the parts from whole logits, by autograd (float64 in tests).

Shapes: N = tokens, D = hidden width, V = vocabulary.
"""

import torch
from torch import Tensor

from pixelis_fast.kernels.linear_loss import ReferenceHead
from pixelis_fast.kernels.linear_loss.reference import reference_statistics
from pixelis_fast.kernels.token_kl.reference import token_kl_reference


def linear_policy_reference(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    advantages_N: Tensor,
    behaviour_logprob_N: Tensor,
    *,
    valid_N: Tensor,
    clip: tuple[float, float] = (0.2, 0.28),
    reference: ReferenceHead | None = None,
    kl_weight: float = 0.0,
    kl_value: str = "exact",
    kl_gradient: str = "exact",
    kl_clamp: float | None = None,
    entropy_weight: float = 0.0,
    imitation_weights_N: Tensor | None = None,
    imitation_weight: float = 0.0,
    temperature: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """Only the loss; differentiable by autograd."""
    found = reference_statistics(
        hidden_ND, weight_VD, targets_N, temperature=temperature, softcap=softcap
    )
    ratio_N = torch.exp(found.logprob - behaviour_logprob_N)
    bounded_N = ratio_N.clamp(1 - clip[0], 1 + clip[1])
    loss_N = -torch.min(ratio_N * advantages_N, bounded_N * advantages_N)
    loss_N = loss_N - entropy_weight * found.entropy
    if reference is not None:
        kl_N = token_kl_reference(
            hidden_ND,
            weight_VD,
            reference.hidden_NE,
            weight_VD.detach() if reference.weight_VE is None else reference.weight_VE,
            targets_N,
            value=kl_value,
            gradient=kl_gradient,
            clamp=kl_clamp,
            importance_N=ratio_N.detach(),
            temperature=temperature,
            softcap=softcap,
        )
        loss_N = loss_N + kl_weight * kl_N
    loss = loss_N[valid_N].sum() / max(int(valid_N.sum()), 1)
    if imitation_weights_N is None:
        return loss
    imitation = -(imitation_weights_N * found.logprob).sum() / imitation_weights_N.sum()
    return loss + imitation_weight * imitation
