"""The words of the op: what goes in, what comes out per token, what backward needs again.

Shapes: N = tokens, D = hidden width, E = the reference's hidden width, V = vocabulary,
S = statistics, C = vocabulary columns kept from forward to backward.
"""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class ReferenceHead(NamedTuple):
    """The frozen distribution q: its hidden states and its head.

    Without a weight q shares the policy's head, as when only adapters below it learn: one read of
    the head then serves both, and their logits' difference is one product of hidden - hidden^q.
    """

    hidden_NE: Tensor
    weight_VE: Tensor | None = None


class LinearStatistics(NamedTuple):
    """float32 [N] each, 0 in rows that are not valid. z = softcap(hidden · weight) / temperature.

    Example:
        statistics = linear_statistics(hidden_ND, weight_VD, targets_N)
        loss = -statistics.logprob.mean()
    """

    logprob: Tensor
    """log p[target], never positive: -log1p(sum of the others over the target)."""
    lse: Tensor
    """log sum_v exp z_v."""
    entropy: Tensor
    """-sum_v p_v log p_v, nats."""
    mean_logit: Tensor
    """mean_v z_v; 0 unless it was asked for."""
    kl: Tensor
    """sum_v p_v log(p_v / q_v), never negative; 0 without a reference."""
    log_ratio: Tensor
    """log p[target] - log q[target], as precise as kl; 0 without a reference."""
    reference_lse: Tensor
    """log sum_v exp z^q_v; 0 without a reference."""


NAMES = LinearStatistics._fields
LOGPROB, LSE, ENTROPY, MEAN_LOGIT, KL, LOG_RATIO, REFERENCE_LSE = range(len(NAMES))
DIFFERENTIABLE = frozenset(NAMES) - {"reference_lse"}


@dataclass(frozen=True)
class Problem:
    """Checked inputs: contiguous, one device; targets in range in every valid row, 0 elsewhere."""

    hidden_ND: Tensor
    weight_VD: Tensor
    targets_N: Tensor
    valid_N: Tensor
    reference_hidden_NE: Tensor | None
    reference_weight_VE: Tensor | None
    """With a reference never None: weight_VD itself where the head is shared."""
    shares_head: bool
    """One product of hidden - hidden^q is the logits' difference: one head, no softcap."""
    scale: float
    """1 / temperature."""
    softcap: float
    """0 without one."""
    wants_mean: bool

    @property
    def has_reference(self) -> bool:
        return self.reference_hidden_NE is not None

    @property
    def shape(self) -> tuple[int, int, int]:
        """N, D, V."""
        return (*self.hidden_ND.shape, self.weight_VD.shape[0])


class Forward(NamedTuple):
    """Statistics and what backward would otherwise compute again."""

    statistics_SN: Tensor
    """float32, rows in the order of NAMES."""
    rows_RN: Tensor
    """float32: a path's own numbers per token."""
    exponentials: Tensor
    """exp(z - anchor) of the first C columns, in the path's own layout."""
    deltas: Tensor
    """z^p - z^q - shift, laid out like the exponentials; empty unless kl is differentiated."""
