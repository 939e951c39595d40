"""The place of a video: a background, and things that stand on it or move over it.

Shapes: T = frames; H, W = frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pixelis_fast.data.pixelworld.backgrounds import background
from pixelis_fast.data.pixelworld.canvas import Canvas, Look, PxBox, units
from pixelis_fast.data.pixelworld.clip import Centre, Sprite, seen, sprite
from pixelis_fast.data.pixelworld.config import Brief
from pixelis_fast.data.pixelworld.task import WorldObject
from pixelis_fast.data.pixelworld.words import distinct_names
from pixelis_fast.types import Span

THING_SHARE = (0.1, 0.15)
"""Diameter of a thing, of the side."""


@dataclass(frozen=True)
class Thing:
    """A shape with its place."""

    look: Look
    sprite: Sprite
    centre: Centre

    def put(self, frame_HWC: np.ndarray, off: Centre = (0.0, 0.0)) -> PxBox:
        """Paints it, moved off its place; the pixels it covers."""
        return self.sprite.put(frame_HWC, (self.centre[0] + off[0], self.centre[1] + off[1]))


@dataclass
class Stage:
    """A background and the things on it, none over another."""

    canvas: Canvas
    looks: list[Look]

    @property
    def side(self) -> int:
        return self.canvas.side

    def place(self, look: Look, room: float = 0.0) -> Thing:
        """A thing with so many pixels of room around it."""
        reach = look.reach_px + 2 + 2 * room
        left, top = self.canvas.free_place(reach, reach)
        centre = left + reach / 2, top + reach / 2
        return Thing(look, sprite(self.canvas.brief, look), centre)

    def stand(self, looks: list[Look], span: Span) -> list[WorldObject]:
        """Things painted onto the background, seen during a span."""
        image_HWC = self.canvas.image_HWC
        boxes = [self.place(look).put(image_HWC) for look in looks]
        return [
            seen("marker", look, units(box_px, self.side), span)
            for look, box_px in zip(looks, boxes, strict=True)
        ]


def new_stage(brief: Brief, side: int, count: int, *, light: float = 1.0) -> Stage:
    """An empty stage, and looks of so many different things for it."""
    ground = background(brief, side).astype(np.float32) * light
    canvas = Canvas(brief, ground.clip(0, 255).astype(np.uint8))
    looks = [
        Look(
            shape,
            color,
            brief.real(*THING_SHARE) * side,
            angle_deg=brief.real(-15, 15),
            depth=0.3,
        )
        for color, shape in distinct_names(brief, count)
    ]
    return Stage(canvas, looks)
