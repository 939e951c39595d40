"""PixelWorld: pictures and videos drawn with questions whose answers are known exactly.

Answers are meant to be found with tools: at 192 pixels, the resolution of a small policy, text,
dots and glyphs are too small, sizes too alike, and a few frames too few. A task depends on nothing
but the settings, the split and its number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pixelis_fast.data.pixelworld.compare import compare_task
from pixelis_fast.data.pixelworld.config import (
    SPLITS,
    Brief,
    NoRoomError,
    PixelWorldConfig,
)
from pixelis_fast.data.pixelworld.count import count_task
from pixelis_fast.data.pixelworld.localize import localize_task
from pixelis_fast.data.pixelworld.multi import multi_task
from pixelis_fast.data.pixelworld.read import read_task
from pixelis_fast.data.pixelworld.spatial import spatial_task
from pixelis_fast.data.pixelworld.task import Task
from pixelis_fast.data.pixelworld.track import track_task
from pixelis_fast.data.shift import apply_shift

MAKERS: dict[str, Callable[[Brief], Task]] = {
    "read": read_task,
    "compare": compare_task,
    "count": count_task,
    "spatial": spatial_task,
    "track": track_task,
    "localize": localize_task,
    "multi": multi_task,
}
REDRAWS = 40


class PixelWorld:
    """Draws tasks.

    Example:
        world = PixelWorld(PixelWorldConfig(seed=0))
        task = world.task("train", 12)
    """

    def __init__(self, config: PixelWorldConfig) -> None:
        self.config = config

    def task(self, split: str, index: int) -> Task:
        """The split's task of that number; equal numbers give equal tasks."""
        if split not in SPLITS:
            raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
        if index < 0:
            raise ValueError(f"index: expected 0 or more, got {index}")
        entropy = (self.config.seed, SPLITS.index(split), index)
        drawing, shifting = (
            np.random.default_rng(seed) for seed in np.random.SeedSequence(entropy).spawn(2)
        )
        task = self._drawn(split, index, drawing)
        if self.config.shift is None:
            return task
        return replace(task, frames=apply_shift(task.frames, self.config.shift, shifting))

    def _drawn(self, split: str, index: int, rng: np.random.Generator) -> Task:
        names = list(self.config.families)
        weights = np.array([self.config.families[name] for name in names])
        family = names[rng.choice(len(names), p=weights / weights.sum())]
        brief = Brief(f"{family}-{split}-{index}", family, split, self.config, rng)
        for _ in range(REDRAWS):
            try:
                return MAKERS[family](brief)
            except NoRoomError:
                continue
        raise RuntimeError(f"{brief.id}: expected room for its objects, got none {REDRAWS} times")
