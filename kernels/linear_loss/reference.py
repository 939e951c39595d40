"""The truth: textbook statistics from whole logits, in any floating dtype (float64 in tests).

Shapes: N = tokens, D = hidden width, E = the reference's width, V = vocabulary.
"""

import torch
from torch import Tensor

from pixelis_fast.kernels.linear_loss.coefficients import Coefficients
from pixelis_fast.kernels.linear_loss.problem import LinearStatistics, ReferenceHead


def logits(hidden_ND: Tensor, weight_VD: Tensor, *, scale: float, softcap: float) -> Tensor:
    """softcap · tanh(hidden · weight / softcap) · scale, (N, V)."""
    raw_NV = hidden_ND @ weight_VD.T
    capped_NV = softcap * torch.tanh(raw_NV / softcap) if softcap else raw_NV
    return capped_NV * scale


def reference_statistics(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    valid_N: Tensor | None = None,
    reference: ReferenceHead | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
) -> LinearStatistics:
    """Differentiable by autograd; mean_logit is always there."""
    scale = 1.0 / temperature
    z_NV = logits(hidden_ND, weight_VD, scale=scale, softcap=softcap or 0.0)
    logp_NV = z_NV.log_softmax(dim=-1)
    p_NV = logp_NV.exp()
    index_N1 = targets_N.long()[:, None]
    logprob_N = logp_NV.gather(1, index_N1)[:, 0]
    kl_N = log_ratio_N = reference_lse_N = torch.zeros_like(logprob_N)
    if reference is not None:
        hidden_NE, weight_VE = reference
        head = weight_VD.detach() if weight_VE is None else weight_VE
        q_NV = logits(hidden_NE, head, scale=scale, softcap=softcap or 0.0)
        logq_NV = q_NV.log_softmax(dim=-1)
        kl_N = (p_NV * (logp_NV - logq_NV)).sum(-1)
        log_ratio_N = logprob_N - logq_NV.gather(1, index_N1)[:, 0]
        reference_lse_N = q_NV.logsumexp(-1)
    found = LinearStatistics(
        logprob=logprob_N,
        lse=z_NV.logsumexp(-1),
        entropy=-(p_NV * logp_NV).sum(-1),
        mean_logit=z_NV.mean(-1),
        kl=kl_N,
        log_ratio=log_ratio_N,
        reference_lse=reference_lse_N,
    )
    if valid_N is None:
        return found
    return LinearStatistics(*(torch.where(valid_N, value, 0.0) for value in found))


def logit_gradient(
    z_NV: Tensor, delta_NV: Tensor | None, targets_N: Tensor, row: Coefficients
) -> Tensor:
    """The formula of coefficients.py on whole logits, (N, V); delta_NV = z^p - z^q."""
    p_NV = z_NV.softmax(-1)
    factor_NV = row.constant[:, None] + row.logit[:, None] * z_NV
    if delta_NV is not None:
        shift_N1 = delta_NV.gather(1, targets_N.long()[:, None])
        factor_NV = factor_NV + row.delta[:, None] * (delta_NV - shift_N1)
    gradient_NV = p_NV * factor_NV + row.uniform[:, None]
    return gradient_NV.scatter_add(1, targets_N.long()[:, None], -row.target[:, None])
