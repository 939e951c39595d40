"""How far a policy has drifted from its anchor: exact KL per token and where it lies.

Measures only: no gradient, no controller. A token's KL is the same bits whatever batch it is
measured in, so a decision does not depend on batching.

Shapes: N = tokens, D = hidden width of p, E = of q, V = vocabulary, Q = quantiles.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pixelis_fast.kernels.checks import check
from pixelis_fast.kernels.linear_loss import ReferenceHead, linear_statistics
from pixelis_fast.kernels.token_rows import check_number, check_rows


class CorridorReport(NamedTuple):
    """float32 on the inputs' device, nats; all 0 where no token is valid.

    Example:
        report = corridor(hidden_p, weight, hidden_ema, weight, high=0.20)
        median, p90, p99 = report.quantiles.tolist()
    """

    kl_N: Tensor
    """Exact KL(p‖q), 0 in rows that are not valid."""
    mean: Tensor
    """Over valid tokens, summed in float64."""
    quantiles: Tensor
    """(Q), over valid tokens, with linear interpolation."""
    maximum: Tensor
    """Over valid tokens."""
    violation_N: Tensor
    """int8: 1 above the corridor, -1 below it, 0 inside it or not valid."""
    inside: Tensor
    """Share of valid tokens inside the corridor."""


@torch.no_grad()
def corridor(
    hidden_p_ND: Tensor,
    weight_p_VD: Tensor,
    hidden_q_NE: Tensor,
    weight_q_VE: Tensor | None,
    *,
    valid_N: Tensor | None = None,
    low: float = 0.10,
    high: float = 0.20,
    quantiles: Sequence[float] = (0.5, 0.9, 0.99),
    temperature: float = 1.0,
    softcap: float | None = None,
    implementation: str = "auto",
) -> CorridorReport:
    """Exact KL(p‖q) of every valid token against the corridor [low, high].

    hidden_p (N, D), weight_p (V, D), hidden_q (N, E), weight_q (V, E) or, for the
    policy's own head, None or weight_p; none of them gets a gradient. A GPU is never waited for.
    """
    check_number("low", low)
    check_number("high", high, positive=True)
    check(low <= high, "low", f"at most high = {high}", low)
    levels = tuple(quantiles)
    check(all(0 <= level <= 1 for level in levels), "quantiles", "numbers in [0, 1]", levels)
    if valid_N is None:
        valid_N = torch.ones(hidden_p_ND.shape[:1], dtype=torch.bool, device=hidden_p_ND.device)
    check_rows("valid", valid_N, hidden_p_ND, boolean=True)
    if weight_q_VE is weight_p_VD:
        weight_q_VE = None
    head = None if weight_q_VE is None else weight_q_VE.detach()
    found = linear_statistics(
        hidden_p_ND,
        weight_p_VD,
        torch.zeros_like(valid_N, dtype=torch.int64),
        valid_N=valid_N,
        reference=ReferenceHead(hidden_q_NE.detach(), head),
        temperature=temperature,
        softcap=softcap,
        differentiate=(),
        implementation=implementation,
    )
    return _report(found.kl, valid_N, low, high, levels)


def _report(
    kl_N: Tensor, valid_N: Tensor, low: float, high: float, levels: tuple[float, ...]
) -> CorridorReport:
    count = valid_N.sum()
    above_N, below_N = valid_N & (kl_N > high), valid_N & (kl_N < low)
    inside = (valid_N & ~above_N & ~below_N).sum()
    return CorridorReport(
        kl_N=kl_N,
        mean=(kl_N.double().sum() / count.clamp(min=1)).float(),
        quantiles=_quantiles(kl_N, valid_N, levels),
        maximum=kl_N.max() if len(kl_N) else kl_N.new_zeros(()),
        violation_N=above_N.to(torch.int8) - below_N.to(torch.int8),
        inside=inside.float() / count.clamp(min=1),
    )


def _quantiles(kl_N: Tensor, valid_N: Tensor, levels: tuple[float, ...]) -> Tensor:
    """Of the valid tokens, which sorting puts first: their number stays on the device."""
    if not len(kl_N):
        return kl_N.new_zeros(len(levels))
    sorted_N = torch.where(valid_N, kl_N, torch.inf).sort().values
    last = (valid_N.sum() - 1).clamp(min=0)
    position_Q = torch.tensor(levels, dtype=torch.float64, device=kl_N.device) * last
    lower_Q = position_Q.floor()
    start_Q = sorted_N[lower_Q.long()]
    end_Q = sorted_N[torch.minimum(lower_Q.long() + 1, last)]
    found_Q = torch.lerp(start_Q, end_Q, (position_Q - lower_Q).float())
    return torch.where(valid_N.any(), found_Q, 0.0)
