"""What other formats' boxes are boxes of: originals and the crops that calls made of them.

Elsewhere a crop may be cropped again, in its own pixels. Here every box is one of the original
frame, in 0..1000, so a chain of crops is followed back to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pixelis_fast.schemas import MAX_COORDINATE
from pixelis_fast.types import Box

Size = tuple[int, int]
"""Width, height in pixels."""
WHOLE: Box = (0, 0, MAX_COORDINATE, MAX_COORDINATE)


@dataclass(frozen=True)
class View:
    """One picture that the policy was shown.

    Example:
        View(media=0, size=(1920, 1080))
    """

    media: int
    """Index of the original."""
    size: Size
    """Of this picture as it was shown."""
    box: Box = WHOLE
    """Which part of the original it shows."""
    time_s: float | None = None
    """Of the frame, where the original is a video."""

    def part(self, box: Sequence[float], *, pixels: bool) -> View:
        """A box of this picture, in its pixels or as shares of its sides; a view of the original.

        The size is what the part has here; ValueError for a box that is none.
        """
        size = self.size if pixels else (1, 1)
        if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
            raise ValueError(f"box: expected [x0, y0, x1, y1] with x0 < x1 and y0 < y1, got {box}")
        if box[0] >= size[0] or box[1] >= size[1] or box[2] <= 0 or box[3] <= 0:
            raise ValueError(f"box: expected one inside {size[0]} x {size[1]}, got {list(box)}")
        inner = in_units(box, size)
        width, height = (self.box[i + 2] - self.box[i] for i in (0, 1))
        outer = (
            self.box[0] + inner[0] * width / MAX_COORDINATE,
            self.box[1] + inner[1] * height / MAX_COORDINATE,
            self.box[0] + inner[2] * width / MAX_COORDINATE,
            self.box[1] + inner[3] * height / MAX_COORDINATE,
        )
        shown = (
            max(1, round((inner[2] - inner[0]) * self.size[0] / MAX_COORDINATE)),
            max(1, round((inner[3] - inner[1]) * self.size[1] / MAX_COORDINATE)),
        )
        return replace(self, box=in_units(outer, (MAX_COORDINATE, MAX_COORDINATE)), size=shown)


def in_units(box: Sequence[float], size: tuple[float, float]) -> Box:
    """A box in 0..1000 of a picture of this size, inside it and at least one unit a side."""
    width, height = size
    left, top = round(MAX_COORDINATE * box[0] / width), round(MAX_COORDINATE * box[1] / height)
    left, top = (min(max(value, 0), MAX_COORDINATE - 1) for value in (left, top))
    right, bottom = round(MAX_COORDINATE * box[2] / width), round(MAX_COORDINATE * box[3] / height)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    return left, top, min(right, MAX_COORDINATE), min(bottom, MAX_COORDINATE)
