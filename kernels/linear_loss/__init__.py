"""Per-token statistics of a linear head over a vocabulary, differentiable, without its logits."""

from pixelis_fast.kernels.linear_loss.op import linear_statistics
from pixelis_fast.kernels.linear_loss.problem import LinearStatistics, ReferenceHead

__all__ = ["LinearStatistics", "ReferenceHead", "linear_statistics"]
