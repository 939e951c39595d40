"""A picture while it is drawn: what stands where, and what was drawn so far.

Shapes: h, w = patch; H, W = picture, both `side`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools import mask as coco

from pixelis_fast.data.pixelworld.backgrounds import background
from pixelis_fast.data.pixelworld.config import Brief, NoRoomError
from pixelis_fast.data.pixelworld.shapes import REACH, paint, shaded, shape_alpha
from pixelis_fast.data.pixelworld.task import WorldObject
from pixelis_fast.data.pixelworld.words import COLORS
from pixelis_fast.types import Box, Point

PxBox = tuple[float, float, float, float]
TRIES = 60
GAP = 0.028
"""Between things that do not belong together, as a share of the side."""
RIM = 0.015


@dataclass
class Canvas:
    """Where a scene is drawn."""

    brief: Brief
    image_HWC: np.ndarray
    objects: list[WorldObject] = field(default_factory=list)
    taken: list[PxBox] = field(default_factory=list)

    @property
    def side(self) -> int:
        return self.image_HWC.shape[0]

    def free_place(self, width: float, height: float) -> tuple[float, float]:
        """(left, top) of room for a box, which is taken from now on."""
        rim, gap = RIM * self.side, GAP * self.side
        if width + 2 * rim > self.side or height + 2 * rim > self.side:
            raise NoRoomError
        for _ in range(TRIES):
            left = self.brief.real(rim, self.side - rim - width)
            top = self.brief.real(rim, self.side - rim - height)
            box = (left, top, left + width, top + height)
            if not any(_near(box, other, gap) for other in self.taken):
                self.taken.append(box)
                return left, top
        raise NoRoomError

    def draw(self, look: Look, centre: tuple[float, float], kind: str) -> Drawn:
        """A shape around a centre in pixels."""
        alpha_hw = look.alpha()
        height, width = alpha_hw.shape
        left, top = round(centre[0] - width / 2), round(centre[1] - height / 2)
        rgb = varied(self.brief, COLORS[look.color])
        light = shaded(rgb, (height, width), angle=self.brief.real(0, 6.28), depth=look.depth)
        paint(self.image_HWC, alpha_hw, light, left=left, top=top)
        box_px = inked(alpha_hw, left, top)
        mask_rle = self._mask(alpha_hw, left, top) if look.masked else None
        thing = WorldObject(kind, look.color, look.shape, self.units(box_px), mask_rle=mask_rle)
        self.objects.append(thing)
        return Drawn(thing, self.point((left + width / 2, top + height / 2)))

    def units(self, box_px: PxBox) -> Box:
        return units(box_px, self.side)

    def point(self, centre_px: tuple[float, float]) -> Point:
        x, y = (min(max(round(value * 1000 / self.side), 0), 999) for value in centre_px)
        return x, y

    def _mask(self, alpha_hw: np.ndarray, left: int, top: int) -> dict[str, Any]:
        mask_HW = np.zeros((self.side, self.side), np.uint8, order="F")
        height, width = alpha_hw.shape
        mask_HW[top : top + height, left : left + width] = alpha_hw >= 0.5
        rle = coco.encode(mask_HW)
        return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode()}


@dataclass(frozen=True)
class Look:
    """How one shape looks."""

    shape: str
    color: str
    diameter_px: float
    angle_deg: float = 0.0
    depth: float = 0.2
    """How much lighter one side is than the other."""
    masked: bool = False
    """Its mask is kept."""

    def alpha(self) -> np.ndarray:
        return shape_alpha(self.shape, self.diameter_px, self.angle_deg)

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"

    @property
    def reach_px(self) -> float:
        """Side of a square it stays in, however it is turned."""
        return self.diameter_px * (1.0 if self.shape in ("disk", "ring") else REACH)


@dataclass(frozen=True)
class Drawn:
    """A drawn object and the point at its centre."""

    thing: WorldObject
    point: Point

    @property
    def area(self) -> int:
        """Pixels of its mask."""
        assert self.thing.mask_rle is not None, "asked of masked objects only"
        rle = {**self.thing.mask_rle, "counts": self.thing.mask_rle["counts"].encode()}
        return int(coco.area(rle))


def new_canvas(brief: Brief) -> Canvas:
    side = brief.whole(*brief.config.image_side)
    return Canvas(brief, np.ascontiguousarray(background(brief, side)))


def varied(brief: Brief, rgb: tuple[int, int, int], spread: float = 10.0) -> np.ndarray:
    return np.array(rgb, np.float32) + brief.rng.uniform(-spread, spread, 3).astype(np.float32)


def inked(alpha_hw: np.ndarray, left: int, top: int) -> PxBox:
    """Bounding box of what is drawn of a patch at a place."""
    rows, columns = (np.flatnonzero((alpha_hw >= 0.5).any(axis)) for axis in (1, 0))
    return (
        float(left + columns[0]),
        float(top + rows[0]),
        float(left + columns[-1] + 1),
        float(top + rows[-1] + 1),
    )


def units(box_px: PxBox, side: int) -> Box:
    """A box in 0..1000, cut to the frame, at least one unit wide and high."""
    x0, y0, x1, y1 = (min(max(round(value * 1000 / side), 0), 1000) for value in box_px)
    x0, y0 = min(x0, 999), min(y0, 999)
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def _near(one: PxBox, other: PxBox, gap: float) -> bool:
    return (
        one[0] < other[2] + gap
        and other[0] < one[2] + gap
        and one[1] < other[3] + gap
        and other[1] < one[3] + gap
    )
