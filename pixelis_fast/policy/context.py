"""Chooses how one forward attends: packed, behind caches, behind shared segments, batch-invariant.

Made once per forward and shared by its layers. Knows no weights.
Shapes: N = tokens of all sequences, H = query heads, K = key/value heads, F = head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pixelis_fast.policy.attention import Packing, cache_masks, cached_attention, causal_attention
from pixelis_fast.policy.cache import KVCache, LayerWindow
from pixelis_fast.policy.decoder import Attend
from pixelis_fast.policy.invariant import invariant_cached, invariant_causal
from pixelis_fast.policy.shared_attention import attend_behind_prefixes, prefix_rows


def plain_attend(lengths: list[int], caches: Sequence[KVCache] | None, *, like: Tensor) -> Attend:
    """For tensors that sit where `like` sits and have its dtype."""
    if caches is None:
        return _packed(Packing.of(lengths, like))
    behind = _behind_prefixes if any(cache.prefix for cache in caches) else _behind_caches
    return behind(lengths, caches, like)


def invariant_attend(lengths: list[int], caches: Sequence[KVCache] | None) -> Attend:
    """A query's numbers follow from its position alone; caches have no shared segments."""
    if caches is None:
        return lambda layer, *qkv: invariant_causal(*qkv, lengths=lengths)
    if any(cache.prefix or cache.multiple == 1 for cache in caches):
        raise ValueError("caches: expected whole ones of new_cache(invariant=True), got others")
    starts = [cache.length for cache in caches]
    windows = _windows(lengths, caches)

    def attend(layer: int, *qkv: Tensor) -> Tensor:
        return invariant_cached(*qkv, lengths=lengths, windows=windows[layer], starts=starts)

    return attend


def _packed(packing: Packing) -> Attend:
    def attend(layer: int, *qkv: Tensor) -> Tensor:
        return causal_attention(*qkv, packing=packing)

    return attend


def _behind_caches(lengths: list[int], caches: Sequence[KVCache], like: Tensor) -> Attend:
    masks = cache_masks(lengths, caches, device=like.device, dtype=like.dtype)
    windows = _windows(lengths, caches)

    def attend(layer: int, *qkv: Tensor) -> Tensor:
        return cached_attention(*qkv, lengths=lengths, windows=windows[layer], masks=masks)

    return attend


def _behind_prefixes(lengths: list[int], caches: Sequence[KVCache], like: Tensor) -> Attend:
    masks = cache_masks(lengths, caches, device=like.device, dtype=like.dtype)
    windows = _windows(lengths, caches)
    prefixes = prefix_rows(caches, lengths, device=like.device)

    def attend(layer: int, *qkv: Tensor) -> Tensor:
        return attend_behind_prefixes(
            *qkv,
            lengths=lengths,
            windows=windows[layer],
            masks=masks,
            prefixes=prefixes,
            layer=layer,
        )

    return attend


def _windows(lengths: Sequence[int], caches: Sequence[KVCache]) -> list[tuple[LayerWindow, ...]]:
    """Per layer, each sequence's place in its cache."""
    opened = [cache.open_window(n) for cache, n in zip(caches, lengths, strict=True)]
    return list(zip(*opened, strict=True))
