"""How coherent the steps of a trajectory are, and which rows of two sets are alike."""

from pixelis_fast.kernels.coherence.op import (
    Coherence,
    PooledCoherence,
    coherence,
    pooled_coherence,
)
from pixelis_fast.kernels.coherence.pairs_op import similarity_vote, top_k
from pixelis_fast.kernels.coherence.pairs_problem import TopK

__all__ = [
    "Coherence",
    "PooledCoherence",
    "TopK",
    "coherence",
    "pooled_coherence",
    "similarity_vote",
    "top_k",
]
