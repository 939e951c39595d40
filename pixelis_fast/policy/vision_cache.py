"""Vision features by content: each image or video is preprocessed and encoded once.

The key is the media's content id and its grid, so a crop that two trajectories zoom to is encoded
once. Features belong to the tower they came from: they outlive a publish that leaves the tower as
it was. Knows no session.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch.autograd.graph import increment_version

from pixelis_fast.policy.batch import VisionFeatures
from pixelis_fast.policy.image import Patches
from pixelis_fast.policy.model import Policy
from pixelis_fast.policy.positions import Grid


class VisionCache:
    """Least recently used features under a byte budget; a budget of 0 encodes at every call."""

    def __init__(self, policy: Policy, *, byte_budget: int = 1 << 30) -> None:
        if byte_budget < 0:
            raise ValueError(f"byte_budget: expected >= 0, got {byte_budget}")
        self._policy = policy
        self._byte_budget = byte_budget
        self._features: OrderedDict[tuple[str, Grid], VisionFeatures] = OrderedDict()
        self._nbytes = 0
        self._tower = fingerprint(policy)
        self.hits = 0
        self.misses = 0

    @property
    def nbytes(self) -> int:
        return self._nbytes

    def __contains__(self, key: tuple[str, Grid]) -> bool:
        """Whether the features of (media id, grid) are here, without counting a hit."""
        return key in self._features

    def features(
        self, media_id: str, grid_thw: Grid, load: Callable[[], Patches]
    ) -> VisionFeatures:
        """Features of one media; `load` gives its patches and is called on a miss only."""
        key = media_id, grid_thw
        if key in self._features:
            self.hits += 1
            self._features.move_to_end(key)
            return self._features[key]
        self.misses += 1
        patches = load()
        if patches.grid_thw != grid_thw:
            raise ValueError(
                f"media {media_id}: expected patches of the grid {grid_thw}, got {patches.grid_thw}"
            )
        return self._add(key, self._encode(patches))

    def encode_ahead(self, media_id: str, load: Callable[[], Patches]) -> bool:
        """Encodes media that will be shown soon; False where it is here or cannot be kept."""
        if self._byte_budget == 0 or any(known == media_id for known, _ in self._features):
            return False
        patches = load()
        self.misses += 1
        self._add((media_id, patches.grid_thw), self._encode(patches))
        return True

    def follow_tower(self) -> bool:
        """Forgets the features of a tower that changed; says whether it did.

        Whoever else keeps what the tower computed goes by its parameters' counts of updates, which
        a write through `.data` leaves as they were.
        """
        tower = fingerprint(self._policy)
        if tower == self._tower:
            return False
        self._tower = tower
        increment_version(self._policy.vision.parameters())
        self._features.clear()
        self._nbytes = 0
        return True

    @torch.inference_mode()
    def _encode(self, patches: Patches) -> VisionFeatures:
        patches_PK = patches.patches_PK.to(self._policy.device, self._policy.dtype)
        return self._policy.encode_vision(patches_PK, [patches.grid_thw])

    def _add(self, key: tuple[str, Grid], features: VisionFeatures) -> VisionFeatures:
        size = features.nbytes
        if size <= self._byte_budget:
            self._features[key] = features
            self._nbytes += size
        while self._nbytes > self._byte_budget:
            _, dropped = self._features.popitem(last=False)
            self._nbytes -= dropped.nbytes
        return features


@torch.no_grad()
def fingerprint(policy: Policy) -> tuple[float, ...]:
    """Sums over every parameter of the tower, in fp64: they change with any update in place."""
    numbers = [
        number
        for parameter in policy.vision.parameters()
        for number in (
            parameter.sum(dtype=torch.float64),
            torch.linalg.vector_norm(parameter, dtype=torch.float64),
        )
    ]
    return tuple(torch.stack(numbers).tolist())
