"""The two implementations behind the all-pairs ops, by name; each is imported when first used."""

from typing import Protocol

from torch import Tensor

from pixelis_fast.kernels.coherence.pairs_problem import Ballot, Pairs


class PairsPath(Protocol):
    """One implementation. N = queries, M = keys, K = neighbours, A = answers."""

    def top_k(self, pairs: Pairs, k: int) -> tuple[Tensor, Tensor]:
        """similarity (N, k) float32 and index (N, k) int64."""

    def vote(self, pairs: Pairs, ballot: Ballot) -> Tensor:
        """votes (N, A) float32 of all keys."""


def open_pairs_path(implementation: str) -> PairsPath:
    """ "triton" or "cpu"."""
    if implementation == "triton":
        from pixelis_fast.kernels.coherence.pairs_triton import TritonPairs

        return TritonPairs()
    from pixelis_fast.kernels.coherence.pairs_cpu import CpuPairs

    return CpuPairs()
