"""The truth: textbook cosine similarities of all pairs, sorted or counted, in float64.

Shapes: N = queries, M = keys, D = width of a row, K = neighbours, A = answers, G = groups.
"""

import torch
from torch import Tensor

from pixelis_fast.kernels.coherence.pairs_problem import NORM_FLOOR, TopK


def similarity_reference(queries_ND: Tensor, keys_MD: Tensor) -> Tensor:
    """(N, M) cosines."""
    unit_ND, unit_MD = (
        rows.double() / rows.double().norm(dim=-1, keepdim=True).clamp_min(NORM_FLOOR)
        for rows in (queries_ND, keys_MD)
    )
    return unit_ND @ unit_MD.T


def visible_reference(
    num_queries: int,
    num_keys: int,
    *,
    valid_keys_M: Tensor | None = None,
    query_cu_seqlens: Tensor | None = None,
    key_cu_seqlens: Tensor | None = None,
    exclude_self: bool = False,
) -> Tensor:
    """(N, M) bool: the pairs that count."""
    visible_NM = torch.ones(num_queries, num_keys, dtype=torch.bool)
    if valid_keys_M is not None:
        visible_NM &= valid_keys_M
    if query_cu_seqlens is not None and key_cu_seqlens is not None:
        query_group_N, key_group_M = (
            torch.repeat_interleave(torch.arange(len(bounds) - 1), bounds.diff())
            for bounds in (query_cu_seqlens, key_cu_seqlens)
        )
        visible_NM &= query_group_N[:, None] == key_group_M
    if exclude_self:
        visible_NM &= ~torch.eye(num_queries, num_keys, dtype=torch.bool)
    return visible_NM


def top_k_reference(similarity_NM: Tensor, visible_NM: Tensor, k: int) -> TopK:
    """Whole rows, sorted stably."""
    hidden_NM = similarity_NM.masked_fill(~visible_NM, -torch.inf)
    padding = (0, max(k - hidden_NM.shape[1], 0))
    hidden_NM = torch.nn.functional.pad(hidden_NM, padding, value=-torch.inf)
    similarity_NK, index_NK = (
        ranked[:, :k] for ranked in hidden_NM.sort(dim=-1, descending=True, stable=True)
    )
    return TopK(similarity_NK, index_NK.masked_fill(similarity_NK == -torch.inf, -1))


def vote_reference(
    similarity_NM: Tensor,
    visible_NM: Tensor,
    answers_M: Tensor,
    *,
    num_answers: int,
    weights_M: Tensor | None = None,
    floor: float = 0.0,
) -> Tensor:
    """(N, A): shares times one-hot answers."""
    share_NM = (similarity_NM - floor).clamp_min(0).masked_fill(~visible_NM, 0)
    if weights_M is not None:
        share_NM = share_NM * weights_M.double()
    asked_M = torch.where(visible_NM.any(0), answers_M.long(), 0)
    return share_NM @ torch.nn.functional.one_hot(asked_M, num_answers).double()
