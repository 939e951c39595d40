"""Vision features by content: each image or video is preprocessed and encoded once.

The key is the media's content id, so a crop that two trajectories zoom to is encoded once. The
tower is frozen while serving, so features stay valid across published adapters. Knows no session.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch

from pixelis_fast.policy.batch import VisionFeatures
from pixelis_fast.policy.image import Patches
from pixelis_fast.policy.model import Policy


class VisionCache:
    """Least recently used features under a byte budget; a budget of 0 encodes at every call."""

    def __init__(self, policy: Policy, *, byte_budget: int = 1 << 30) -> None:
        if byte_budget < 0:
            raise ValueError(f"byte_budget: expected >= 0, got {byte_budget}")
        self._policy = policy
        self._byte_budget = byte_budget
        self._features: OrderedDict[str, VisionFeatures] = OrderedDict()
        self._nbytes = 0
        self.hits = 0
        self.misses = 0

    @property
    def nbytes(self) -> int:
        return self._nbytes

    def features(self, key: str, load: Callable[[], Patches]) -> VisionFeatures:
        """Features of one media; `load` gives its patches and is called on a miss only."""
        if key in self._features:
            self.hits += 1
            self._features.move_to_end(key)
            return self._features[key]
        self.misses += 1
        features = self._encode(load())
        self._add(key, features)
        return features

    @torch.inference_mode()
    def _encode(self, patches: Patches) -> VisionFeatures:
        patches_PK = patches.patches_PK.to(self._policy.device, self._policy.dtype)
        return self._policy.encode_vision(patches_PK, [patches.grid_thw])

    def _add(self, key: str, features: VisionFeatures) -> None:
        size = features.nbytes
        if size > self._byte_budget:
            return
        self._features[key] = features
        self._nbytes += size
        while self._nbytes > self._byte_budget:
            _, dropped = self._features.popitem(last=False)
            self._nbytes -= dropped.nbytes
