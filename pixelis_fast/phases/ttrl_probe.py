"""Trajectories of earlier queries, one each, that every later update is measured on.

Only what a forward needs is kept, patches included: media may be gone by then. Saved with the
learner, so that a resumed one measures what it would have measured.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from pixelis_fast.policy.image import Patches
from pixelis_fast.trace import trajectory_from_json
from pixelis_fast.training_batch import LoadPatches
from pixelis_fast.types import Sample, Trajectory

PlainPatches = tuple[Tensor, tuple[int, int, int], int]


class ProbeSet:
    """The newest so many.

    Example:
        probes = ProbeSet(agent.views.patches, size=4)
        batch = learner_batch(policy, [*group, *probes.trajectories], probes.load, rules)
        probes.add([exemplar])
    """

    def __init__(self, load_patches: LoadPatches, *, size: int) -> None:
        self._load_patches = load_patches
        self._patches: dict[str, Patches] = {}
        self._held: dict[str, Patches] = {}
        self._kept: deque[Trajectory] = deque(maxlen=size)

    @property
    def trajectories(self) -> list[Trajectory]:
        return list(self._kept)

    def load(self, media_id: str) -> Patches:
        """Kept ones, or the caller's own."""
        kept = self._patches.get(media_id) or self._held.get(media_id)
        return self._load_patches(media_id) if kept is None else kept

    def hold(self, trajectories: Iterable[Trajectory]) -> None:
        """Patches that an update will ask for, when their media may be gone; until `let_go`."""
        shown = {span.media_id for each in trajectories for span in each.spans}
        self._held |= {media_id: self.load(media_id) for media_id in sorted(shown)}

    def let_go(self) -> None:
        self._held.clear()

    def add(self, trajectories: Iterable[Trajectory]) -> None:
        """The oldest make room."""
        self._kept.extend(bare(trajectory) for trajectory in trajectories)
        shown = {span.media_id for each in self._kept for span in each.spans}
        self._patches = {media_id: self.load(media_id) for media_id in sorted(shown)}

    def state(self) -> dict[str, Any]:
        """Plain values and tensors."""
        rows = [json.dumps(asdict(each), default=lambda enum: enum.value) for each in self._kept]
        patches, held = plain_patches(self._patches), plain_patches(self._held)
        return {"trajectories": rows, "patches": patches, "held": held}

    def restore(self, state: dict[str, Any]) -> None:
        self._patches, self._held = whole_patches(state["patches"]), whole_patches(state["held"])
        self._kept.clear()
        self._kept.extend(trajectory_from_json(json.loads(row)) for row in state["trajectories"])


def plain_patches(patches: dict[str, Patches]) -> dict[str, PlainPatches]:
    return {
        media_id: (each.patches_PK, each.grid_thw, each.merge_size)
        for media_id, each in patches.items()
    }


def whole_patches(plain: dict[str, PlainPatches]) -> dict[str, Patches]:
    return {
        media_id: Patches(patches_PK, grid, merge_size)
        for media_id, (patches_PK, grid, merge_size) in plain.items()
    }


def bare(trajectory: Trajectory) -> Trajectory:
    """Tokens and pictures, without what was asked and what tools said."""
    return replace(trajectory, sample=Sample(trajectory.sample.id, (), ""), steps=[])
