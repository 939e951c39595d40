"""Attention in two parts: once over the segment that several sequences share, and over each tail.

All members' queries meet a shared segment in one call, so that its keys are read once for all of
them; the parts are joined by their log-sum-exps, which is exact. What a step of eight members gains
is "copied prefixes" against "ours" in `bench/engine.py`. One call per tail: SDPA over all tails
padded to one call was no faster. Knows caches, no sessions.

Shapes: N = new tokens of all sequences, M = those behind one segment, H = query heads,
K = key/value heads, G = H / K, F = head_dim, T = keys, P = tokens of a segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.attention.bias import CausalBias

from pixelis_fast.policy.cache import KVCache, LayerWindow, write_all
from pixelis_fast.policy.segments import Segment

FOLDED_TOKENS = 64
"""Up to so many new tokens a group's queries are folded into the query axis."""
Mask = Tensor | CausalBias | None
Part = tuple[Tensor, Tensor]
"""Output (N, H, F) and log-sum-exp (N, H), fp32."""


@dataclass(frozen=True)
class PrefixRows:
    """The packed tokens that stand behind one segment."""

    layers: list[tuple[Tensor, Tensor]]
    rows: slice | Tensor | None
    """None: all of them."""


def prefix_rows(
    caches: Sequence[KVCache], lengths: Sequence[int], *, device: torch.device
) -> list[PrefixRows]:
    """Every segment of the caches once, with the new tokens that see it."""
    ends = list(accumulate(lengths))
    seen: dict[int, tuple[Segment, list[range]]] = {}
    for cache, end, length in zip(caches, ends, lengths, strict=True):
        for segment in cache.prefix:
            seen.setdefault(id(segment), (segment, []))[1].append(range(end - length, end))
    return [
        PrefixRows(segment.layers(), _rows(spans, ends[-1], device))
        for segment, spans in seen.values()
    ]


def _rows(spans: list[range], num_tokens: int, device: torch.device) -> slice | Tensor | None:
    count = sum(map(len, spans))
    if count == num_tokens:
        return None
    start, stop = spans[0].start, spans[-1].stop
    if count == stop - start:
        return slice(start, stop)
    return torch.tensor([row for span in spans for row in span], device=device)


def attend_behind_prefixes(
    queries_NHF: Tensor,
    keys_NKF: Tensor,
    values_NKF: Tensor,
    *,
    lengths: Sequence[int],
    windows: Sequence[LayerWindow],
    masks: Sequence[Mask],
    prefixes: Sequence[PrefixRows],
    layer: int,
) -> Tensor:
    """Each sequence's new tokens join its tail and attend to its segments and its tail.

    Returns (N, H, F). Segments are seen whole: they lie before every new token.
    """
    write_all(windows, keys_NKF, values_NKF, lengths)
    out_NHF, lse_NH = _tails(queries_NHF, lengths, windows, masks)
    for prefix in prefixes:
        rows = prefix.rows
        if rows is None:
            part = _whole_segment(queries_NHF, *prefix.layers[layer])
            out_NHF, lse_NH = join((out_NHF, lse_NH), part)
        else:
            part = _whole_segment(queries_NHF[rows], *prefix.layers[layer])
            out_NHF[rows], lse_NH[rows] = join((out_NHF[rows], lse_NH[rows]), part)
    return out_NHF


def join(one: Part, other: Part) -> Part:
    """What attention over both parts' keys gives."""
    (out_NHF, lse_NH), (other_NHF, other_NH) = one, other
    share_NH1 = torch.sigmoid(lse_NH - other_NH).unsqueeze(-1)
    joined = torch.lerp(other_NHF.float(), out_NHF.float(), share_NH1)
    return joined.to(out_NHF.dtype), torch.logaddexp(lse_NH, other_NH)


def _tails(
    queries_NHF: Tensor,
    lengths: Sequence[int],
    windows: Sequence[LayerWindow],
    masks: Sequence[Mask],
) -> Part:
    """Each sequence's new tokens on its own tail, which they have joined."""
    num_heads, head_dim = queries_NHF.shape[1:]
    if max(lengths) == 1:
        num_kv_heads = windows[0].keys_1KTF.shape[1]
        queries_NKGF = queries_NHF.reshape(-1, num_kv_heads, num_heads // num_kv_heads, head_dim)
        parts = [
            attend(queries_1KGF, window.keys_1KTF, window.values_1KTF)
            for queries_1KGF, window in zip(queries_NKGF.split(1), windows, strict=True)
        ]
        out_NKGF, lse_NKG = (torch.cat(both) for both in zip(*parts, strict=True))
        return out_NKGF.view(-1, num_heads, head_dim), lse_NKG.view(-1, num_heads)
    parts = [
        # Without a mask the new tokens are the first of their tail, or there is only one.
        _grouped(q, window.keys_1KTF, window.values_1KTF, mask=mask, is_causal=mask is None)
        if len(q) > 1
        else _grouped(q, window.keys_1KTF, window.values_1KTF, mask=None, is_causal=False)
        for q, window, mask in zip(queries_NHF.split(list(lengths)), windows, masks, strict=True)
    ]
    outs, lses = zip(*parts, strict=True)
    return torch.cat(outs), torch.cat(lses)


def _whole_segment(queries_MHF: Tensor, keys_1KPF: Tensor, values_1KPF: Tensor) -> Part:
    if len(queries_MHF) > FOLDED_TOKENS:
        return _grouped(queries_MHF, keys_1KPF, values_1KPF, mask=None, is_causal=False)
    num_new, num_heads, head_dim = queries_MHF.shape
    num_kv_heads = keys_1KPF.shape[1]
    queries_KMGF = queries_MHF.view(num_new, num_kv_heads, -1, head_dim).transpose(0, 1)
    folded_1KQF = queries_KMGF.reshape(1, num_kv_heads, -1, head_dim)
    out_1KQF, lse_1KQ = attend(folded_1KQF, keys_1KPF, values_1KPF)
    out_KMGF = out_1KQF.view(num_kv_heads, num_new, -1, head_dim)
    lse_KMG = lse_1KQ.reshape(num_kv_heads, num_new, -1)
    return (
        out_KMGF.transpose(0, 1).reshape(num_new, num_heads, head_dim),
        lse_KMG.transpose(0, 1).reshape(num_new, num_heads),
    )


def _grouped(
    queries_NHF: Tensor,
    keys_1KTF: Tensor,
    values_1KTF: Tensor,
    *,
    mask: Mask,
    is_causal: bool,
) -> Part:
    if isinstance(mask, CausalBias):
        mask, is_causal = None, True
    out_1HNF, lse_1HN = attend(
        queries_NHF.transpose(0, 1).unsqueeze(0),
        keys_1KTF,
        values_1KTF,
        mask=mask,
        is_causal=is_causal,
    )
    return out_1HNF.squeeze(0).transpose(0, 1), lse_1HN.squeeze(0).T


def attend(
    queries_1HNF: Tensor,
    keys_1KTF: Tensor,
    values_1KTF: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
) -> Part:
    """(1, H, N, F) and its log-sum-exp (1, H, N); H is a multiple of K.

    With is_causal the last query sees the last key. SDPA's own kernels give both numbers; where
    the device has no such kernel the textbook form does.
    """
    aten = torch.ops.aten
    if queries_1HNF.device.type == "cpu":
        return aten._scaled_dot_product_flash_attention_for_cpu(
            queries_1HNF, keys_1KTF, values_1KTF, 0.0, is_causal, attn_mask=mask
        )
    if queries_1HNF.dtype in (torch.bfloat16, torch.float16) and mask is None:
        flash = aten._scaled_dot_product_flash_attention
        return flash(queries_1HNF, keys_1KTF, values_1KTF, 0.0, is_causal)[:2]
    return textbook(queries_1HNF, keys_1KTF, values_1KTF, mask=mask, is_causal=is_causal)


def textbook(
    queries_1HNF: Tensor,
    keys_1KTF: Tensor,
    values_1KTF: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
) -> Part:
    """Scores in memory, fp32 sums."""
    num_heads, num_new, head_dim = queries_1HNF.shape[1:]
    num_kv_heads, num_keys = keys_1KTF.shape[1:3]
    folded_1KQF = queries_1HNF.reshape(1, num_kv_heads, -1, head_dim)
    scores = (folded_1KQF @ keys_1KTF.transpose(2, 3)).float() * head_dim**-0.5
    scores_1HNT = scores.view(1, num_heads, num_new, num_keys)
    if is_causal:
        hidden = torch.ones_like(scores_1HNT[0, 0], dtype=torch.bool)
        hidden = hidden.triu_(num_keys - num_new + 1)
        scores_1HNT = scores_1HNT.masked_fill(hidden, -torch.inf)
    if mask is not None:
        scores_1HNT = scores_1HNT + mask
    lse_1HN = scores_1HNT.logsumexp(-1)
    weights = (scores_1HNT - lse_1HN.unsqueeze(-1)).exp().to(values_1KTF.dtype)
    out = weights.view(1, num_kv_heads, -1, num_keys) @ values_1KTF
    return out.view(1, num_heads, num_new, head_dim), lse_1HN
