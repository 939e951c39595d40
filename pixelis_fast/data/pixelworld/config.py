"""Settings of the generator, and what a family is given to draw one task."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pixelis_fast.data.shift import ShiftConfig

SPLITS = ("train", "val", "test")
FAMILIES = ("read", "compare", "count", "spatial", "track", "localize", "multi")
BACKGROUNDS = ("mixed", "photos", "procedural")


def even_weights() -> dict[str, float]:
    return dict.fromkeys(FAMILIES, 1.0)


@dataclass(frozen=True)
class PixelWorldConfig:
    """What is drawn, and how varied.

    Example:
        PixelWorldConfig(seed=1, families={"read": 1.0}, shift=ShiftConfig("noise", 3))
    """

    seed: int = 0
    families: dict[str, float] = field(default_factory=even_weights)
    """Weights, need not sum to 1; a family that is left out is not drawn."""
    backgrounds: str = "mixed"
    """photos (from the scikit-image package), procedural, or mixed: half and half."""
    image_side: tuple[int, int] = (672, 768)
    """Smallest and largest side of a picture; pictures are square."""
    video_side: tuple[int, int] = (256, 320)
    video_s: tuple[float, float] = (2.0, 4.0)
    fps: int = 10
    """Ten: every frame starts at a whole tenth of a second, the unit of the answers."""
    area_difference: tuple[float, float] = (0.05, 0.15)
    """By how much the larger of two objects is larger."""
    shift: ShiftConfig | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.families if name not in FAMILIES]
        if unknown or not self.families or min(self.families.values()) < 0:
            raise ValueError(
                f"families: expected weights of {', '.join(FAMILIES)}, got {self.families}"
            )
        if sum(self.families.values()) <= 0:
            raise ValueError(f"families: expected a weight above 0, got {self.families}")
        if self.backgrounds not in BACKGROUNDS:
            raise ValueError(
                f"backgrounds: expected one of {', '.join(BACKGROUNDS)}, got {self.backgrounds!r}"
            )
        self._check_ranges()

    def _check_ranges(self) -> None:
        least = {"image_side": 512, "video_side": 224, "video_s": 1.5, "area_difference": 0.02}
        for name, smallest in least.items():
            low, high = getattr(self, name)
            if not smallest <= low <= high:
                raise ValueError(f"{name}: expected {smallest} <= least <= most, got {low}, {high}")
        if self.fps < 5:
            raise ValueError(f"fps: expected at least 5, got {self.fps}")


@dataclass(frozen=True)
class Brief:
    """What one task is drawn from: nothing else may be random."""

    id: str
    family: str
    split: str
    config: PixelWorldConfig
    rng: np.random.Generator

    def whole(self, low: int, high: int) -> int:
        """low..high, both included."""
        return int(self.rng.integers(low, high + 1))

    def real(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)


class NoRoomError(Exception):
    """A scene that came out too full; it is drawn anew."""
