"""Keys and values of prompt beginnings: the system text and tool schemas, once for all requests.

A beginning is always computed alone and then copied, by the first request too: a hit and a miss
give the same bits. Entries belong to the weights they were computed with; an in-place update of any
parameter makes them strangers. Text only: vision spans stay with their session.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch

from pixelis_fast.policy.batch import PackedBatch
from pixelis_fast.policy.cache import KVCache
from pixelis_fast.policy.model import Policy
from pixelis_fast.policy.positions import mrope_positions


class PrefixCache:
    """Least recently used beginnings under a byte budget.

    Example:
        cache = PrefixCache(policy, byte_budget=1 << 28).fork(ids, room=512)
    """

    def __init__(self, policy: Policy, *, byte_budget: int) -> None:
        if byte_budget < 0:
            raise ValueError(f"byte_budget: expected >= 0, got {byte_budget}")
        self._policy = policy
        self._byte_budget = byte_budget
        self._caches: OrderedDict[tuple[int, ...], KVCache] = OrderedDict()
        self.hits = 0
        self.misses = 0

    @property
    def nbytes(self) -> int:
        return sum(cache.nbytes for cache in self._caches.values())

    def fork(self, ids: Sequence[int], *, room: int) -> KVCache:
        """A session's own copy of the beginning, with room for more tokens."""
        key = (weights_stamp(self._policy), *ids)
        if key in self._caches:
            self.hits += 1
            self._caches.move_to_end(key)
            return self._caches[key].fork(room=room)
        self.misses += 1
        cache = self._prefill(ids)
        self._keep(key, cache)
        return cache.fork(room=room)

    @torch.inference_mode()
    def _prefill(self, ids: Sequence[int]) -> KVCache:
        device = self._policy.device
        cache = self._policy.new_cache(len(ids))
        positions_3N, _ = mrope_positions([len(ids)], 0)
        ids_N = torch.tensor(ids, device=device)
        self._policy.hidden(PackedBatch(ids_N, positions_3N.to(device), [len(ids)]), [cache])
        return cache

    def _keep(self, key: tuple[int, ...], cache: KVCache) -> None:
        if cache.nbytes > self._byte_budget:
            return
        self._caches[key] = cache
        while self.nbytes > self._byte_budget:
            self._caches.popitem(last=False)


def weights_stamp(policy: Policy) -> int:
    """Changes with every in-place update of a parameter."""
    return sum(parameter._version for parameter in policy.parameters())
