"""All pairs of queries and keys by cosine, without their N × M similarities: neighbours and votes.

Public calls, their checks, and the custom operators behind them. No gradient: a row that wants one
is refused. Knows no kernel, only the two paths (Triton on a GPU or in the interpreter, C++ on the
CPU); both visit keys in blocks and keep what a query needs of them.

Shapes: N = queries, M = keys, D = width of a row, K = neighbours, A = answers, G = groups.
"""

import torch
from torch import Tensor

from pixelis_fast.kernels.checks import check_count
from pixelis_fast.kernels.coherence.pairs_inputs import (
    INDEX_DTYPES,
    check_floor,
    check_groups,
    check_k,
    check_pairs,
    check_per_key,
    make_ballot,
    make_pairs,
)
from pixelis_fast.kernels.coherence.pairs_neighbours import neighbour_vote, poisoned
from pixelis_fast.kernels.coherence.pairs_paths import open_pairs_path
from pixelis_fast.kernels.coherence.pairs_problem import TopK
from pixelis_fast.kernels.triton_support import chosen_implementation


def top_k(
    queries_ND: Tensor,
    keys_MD: Tensor,
    k: int,
    *,
    valid_keys_M: Tensor | None = None,
    query_cu_seqlens: Tensor | None = None,
    key_cu_seqlens: Tensor | None = None,
    exclude_self: bool = False,
    implementation: str = "auto",
) -> TopK:
    """The k keys most similar to each query: similarity (N, k) float32, index (N, k) int64.

    queries (N, D), keys (M, D) bfloat16 or float32. Equals
    `cosine(queries, keys).sort(descending=True, stable=True)` cut to k <= 64 columns, so equal
    similarities come in order of their index; -inf and -1 fill rows that see fewer keys.
    `valid_keys_M` (M) bool leaves keys out. With `query_cu_seqlens` and `key_cu_seqlens` (G + 1)
    query and key must lie in the same group; `exclude_self` leaves out pairs (i, i).
    A row's result does not depend on the other queries. Rows must be finite: others raise
    ValueError on the CPU and give NaN on a GPU, where raising would wait for the device.
    """
    check_pairs(queries_ND, keys_MD, valid_keys_M, exclude_self=exclude_self)
    check_groups(query_cu_seqlens, key_cu_seqlens, queries_ND)
    check_k(k)
    found = _top_k(
        queries_ND.detach(),
        keys_MD.detach(),
        k,
        valid_keys_M,
        query_cu_seqlens,
        key_cu_seqlens,
        exclude_self,
        chosen_implementation(implementation, queries_ND),
    )
    return TopK(*found)


def similarity_vote(
    queries_ND: Tensor,
    keys_MD: Tensor,
    answers_M: Tensor,
    *,
    num_answers: int,
    weights_M: Tensor | None = None,
    floor: float = 0.0,
    k: int | None = None,
    valid_keys_M: Tensor | None = None,
    query_cu_seqlens: Tensor | None = None,
    key_cu_seqlens: Tensor | None = None,
    exclude_self: bool = False,
    implementation: str = "auto",
) -> Tensor:
    """What the keys vote for, seen from each query: votes (N, num_answers) float32.

        votes[n, a] = sum over keys j with answer a of weight[j] · max(cosine(n, j) - floor, 0)

    answers (M) int32 or int64 in [0, num_answers); weights (M) float32, 1 without them, may be
    negative. All keys vote, or the k <= 64 most similar ones where `k` is given. Which keys a
    query sees, and rows that are not finite: as in `top_k`. A vote adds up in an order that
    depends on the keys alone. A valid key's unknown answer or infinite weight raises ValueError
    on the CPU and makes all votes NaN on a GPU.
    """
    check_pairs(queries_ND, keys_MD, valid_keys_M, exclude_self=exclude_self)
    check_groups(query_cu_seqlens, key_cu_seqlens, queries_ND)
    check_per_key("answers_M", answers_M, keys_MD, INDEX_DTYPES)
    if weights_M is not None:
        check_per_key("weights_M", weights_M, keys_MD, (torch.float32,))
    check_count("num_answers", num_answers)
    check_floor(floor)
    if k is not None:
        check_k(k)
    return _vote(
        queries_ND.detach(),
        keys_MD.detach(),
        answers_M,
        None if weights_M is None else weights_M.detach(),
        num_answers,
        float(floor),
        0 if k is None else k,
        valid_keys_M,
        query_cu_seqlens,
        key_cu_seqlens,
        exclude_self,
        chosen_implementation(implementation, queries_ND),
    )


@torch.library.custom_op("pixelis_fast::pairs_top_k", mutates_args=())
def _top_k(
    queries: Tensor,
    keys: Tensor,
    k: int,
    valid: Tensor | None,
    query_bounds: Tensor | None,
    key_bounds: Tensor | None,
    exclude_self: bool,
    implementation: str,
) -> tuple[Tensor, Tensor]:
    pairs = make_pairs(queries, keys, valid, query_bounds, key_bounds, exclude_self)
    return open_pairs_path(implementation).top_k(pairs, k)


@_top_k.register_fake
def _(queries, keys, k, valid, query_bounds, key_bounds, exclude_self, implementation):  # type: ignore[no-untyped-def]
    shape = (queries.shape[0], k)
    return queries.new_empty(shape, dtype=torch.float32), queries.new_empty(
        shape, dtype=torch.int64
    )


@torch.library.custom_op("pixelis_fast::pairs_vote", mutates_args=())
def _vote(
    queries: Tensor,
    keys: Tensor,
    answers: Tensor,
    weights: Tensor | None,
    num_answers: int,
    floor: float,
    k: int,
    valid: Tensor | None,
    query_bounds: Tensor | None,
    key_bounds: Tensor | None,
    exclude_self: bool,
    implementation: str,
) -> Tensor:
    """k = 0: all keys vote."""
    pairs = make_pairs(queries, keys, valid, query_bounds, key_bounds, exclude_self)
    ballot = make_ballot(answers, weights, valid, num_answers, floor)
    path = open_pairs_path(implementation)
    if k == 0:
        votes_NA = path.vote(pairs, ballot)
    else:
        votes_NA = neighbour_vote(TopK(*path.top_k(pairs, k)), ballot)
    return poisoned(votes_NA, pairs, ballot)


@_vote.register_fake
def _(  # type: ignore[no-untyped-def]
    queries,
    keys,
    answers,
    weights,
    num_answers,
    floor,
    k,
    valid,
    query_bounds,
    key_bounds,
    exclude_self,
    implementation,
):
    return queries.new_empty((queries.shape[0], num_answers), dtype=torch.float32)
