"""The words of the all-pairs ops: which queries meet which keys, and what top-k gives back.

The similarity of a pair is the cosine: a product of rows as they come, divided afterwards in
float32 by both norms, so that no normalised row is ever rounded. A zero row has similarity 0.

Shapes: N = queries, M = keys, D = width of a row, K = neighbours asked for.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

DTYPES = (torch.bfloat16, torch.float32)
MAX_K = 64
NORM_FLOOR = 1e-12
"""A norm below it counts as this one, so a zero row divides by no zero."""


class TopK(NamedTuple):
    """Neighbours, most similar first; equal similarities in order of their index.

    Example:
        TopK(similarity_NK=tensor([[0.9, 0.2, -inf]]), index_NK=tensor([[4, 0, -1]]))
    """

    similarity_NK: Tensor
    """float32; -inf where a query has fewer than K keys it may see."""
    index_NK: Tensor
    """int64; -1 there."""


@dataclass(frozen=True)
class Pairs:
    """Checked inputs of one device; rows are packed. Query i sees key j where all of these hold."""

    queries_ND: Tensor
    keys_MD: Tensor
    valid_M: Tensor | None
    """bool: j is a key at all."""
    first_N: Tensor | None
    """int64: j >= first[i]. Given together with last."""
    last_N: Tensor | None
    """int64: j < last[i]."""
    exclude_self: bool
    """j != i."""


@dataclass(frozen=True)
class Ballot:
    """Key j gives answer[j] weight[j] · max(similarity - floor, 0). Checked, one device."""

    answers_M: Tensor
    weights_M: Tensor | None
    num_answers: int
    floor: float
