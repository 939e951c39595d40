"""The truth: weighted cross-entropy from whole logits, in any floating dtype (float64 in tests).

Shapes: N = tokens, D = hidden width, V = vocabulary.
"""

import torch
from torch import Tensor

from pixelis_fast.kernels.linear_loss.reference import logits


def masked_imitation_reference(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    token_weights_N: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | None = None,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Only the loss; differentiable by autograd."""
    z_NV = logits(hidden_ND, weight_VD, scale=1 / temperature, softcap=softcap or 0.0)
    supervised_N = targets_N != ignore_index
    loss_N = torch.nn.functional.cross_entropy(
        z_NV,
        targets_N.long(),
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction="none",
    )
    loss_N = loss_N + z_loss * z_NV.logsumexp(-1) ** 2
    given_N = torch.ones_like(loss_N) if token_weights_N is None else token_weights_N.to(loss_N)
    weights_N = torch.where(supervised_N, given_N, 0.0)
    loss_N = torch.where(weights_N != 0, weights_N * loss_N, 0.0)
    if reduction == "none":
        return loss_N
    if reduction == "sum":
        return loss_N.sum()
    total = float(weights_N.sum()) if normalizer is None else normalizer
    return loss_N.sum() / (total or 1.0)
