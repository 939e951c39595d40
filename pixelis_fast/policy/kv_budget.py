"""What caches hold where, in bytes, and what making some of them grow would add."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from pixelis_fast.policy.cache import KVCache
from pixelis_fast.policy.segments import held_bytes


def resident_bytes(caches: Iterable[KVCache]) -> int:
    """Bytes on the device; what caches share is counted once."""
    return held_bytes(tensor for cache in caches for tensor in cache.tensors)


def host_bytes(caches: Iterable[KVCache]) -> int:
    """Bytes of what was moved to the host."""
    return held_bytes(tensor for cache in caches for tensor in cache.host_tensors)


def needed_bytes(wanted: Sequence[tuple[KVCache, int]], held: Sequence[KVCache]) -> int:
    """Bytes on top of `held` if every wanted cache is made resident and grows by its tokens."""
    tensors: list[Tensor] = [tensor for cache in held for tensor in cache.tensors]
    before = held_bytes(tensors)
    segments = {id(seg): seg for cache, _ in wanted for seg in cache.prefix if seg.is_on_host}
    tensors += [tensor for cache, _ in wanted for tensor in cache.tensors]
    resumed = sum(segment.tensor.nbytes for segment in segments.values())
    growth = sum(cache.growth(num_tokens) for cache, num_tokens in wanted)
    return held_bytes(tensors) - before + resumed + growth


def evict_cache(cache: KVCache, others: Iterable[KVCache]) -> None:
    """To the host: the tail, and the segments that no other cache on the device uses."""
    cache.evict()
    used = {id(seg) for other in others if not other.is_on_host for seg in other.prefix}
    for segment in cache.prefix:
        if id(segment) not in used:
            segment.evict()
