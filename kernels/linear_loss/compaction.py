"""Valid rows first, without asking the device how many there are.

Shapes: N = tokens; a slot is a row's place after compaction.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """A permutation that keeps the order of valid rows, and their count in device memory."""

    order_N: Tensor
    """int64, slot -> token."""
    position_N: Tensor
    """int64, token -> slot."""
    kept_N: Tensor
    """int8 by slot: 1 for the first `count`."""
    valid_N: Tensor
    """int8 by token."""
    count_1: Tensor
    """int32."""


def compact(valid_N: Tensor) -> Rows:
    """valid (N) bool, N > 0."""
    rank_N = valid_N.cumsum(0)
    count_1 = rank_N[-1:]
    slots_N = torch.arange(valid_N.shape[0], device=valid_N.device)
    position_N = torch.where(valid_N, rank_N - 1, count_1 + slots_N - rank_N)
    order_N = torch.empty_like(slots_N).scatter_(0, position_N, slots_N)
    kept_N = (slots_N < count_1).to(torch.int8)
    return Rows(order_N, position_N, kept_N, valid_N.to(torch.int8), count_1.to(torch.int32))
