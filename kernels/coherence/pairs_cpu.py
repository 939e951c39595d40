"""The all-pairs ops on the CPU: torch tensors as the typed buffers of csrc/pairs.h.

Shapes: N = queries, M = keys, D = width of a row, K = neighbours, A = answers.
"""

from typing import Any

import torch
from torch import Tensor

from pixelis_fast.kernels import _cpu
from pixelis_fast.kernels.coherence.pairs_problem import Ballot, Pairs


class CpuPairs:
    def __init__(self, *, simd: str | None = None) -> None:
        self.simd = simd
        """None runs the best instruction set of this CPU; a lower one serves comparison."""

    def top_k(self, pairs: Pairs, k: int) -> tuple[Tensor, Tensor]:
        similarity_NK, index_NK = _cpu.pairs_top_k(
            **_rows(pairs), k=k, **self._visibility(pairs), simd=self.simd
        )
        return torch.from_numpy(similarity_NK), torch.from_numpy(index_NK)

    def vote(self, pairs: Pairs, ballot: Ballot) -> Tensor:
        votes_NA = _cpu.pairs_vote(
            **_rows(pairs),
            answers=ballot.answers_M.long().numpy(),
            weights=_array(ballot.weights_M),
            num_answers=ballot.num_answers,
            floor=ballot.floor,
            **self._visibility(pairs),
            simd=self.simd,
        )
        return torch.from_numpy(votes_NA)

    def _visibility(self, pairs: Pairs) -> dict[str, Any]:
        return {
            "valid": _array(pairs.valid_M),
            "first": _array(pairs.first_N),
            "last": _array(pairs.last_N),
            "exclude_self": pairs.exclude_self,
            "threads": torch.get_num_threads(),
        }


def _rows(pairs: Pairs) -> dict[str, Any]:
    """numpy knows no bfloat16: 16-bit integers hold its bits."""
    queries, keys = pairs.queries_ND, pairs.keys_MD
    if queries.dtype == torch.bfloat16:
        queries, keys = queries.view(torch.int16), keys.view(torch.int16)
    return {"queries": queries.numpy(), "keys": keys.numpy()}


def _array(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.numpy()
