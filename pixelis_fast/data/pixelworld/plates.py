"""Signs and panels: plates beside a marker, with text, dots or glyphs too small to see from afar.

At 192 pixels capitals and glyphs are less than 3 pixels high, dots about 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pixelis_fast.data.pixelworld.canvas import Canvas, Drawn, Look, PxBox
from pixelis_fast.data.pixelworld.shapes import paint, text_alpha
from pixelis_fast.data.pixelworld.task import WorldObject
from pixelis_fast.types import Box

MARKER_SHARE = (0.084, 0.11)
"""Diameter of a marker, of the side."""
CAP_SHARE = (0.0135, 0.015)
"""Height of a capital, of the side."""
PLATES = (
    ("white", (238, 238, 234), (24, 24, 28)),
    ("yellow", (244, 226, 150), (30, 26, 20)),
    ("white", (226, 234, 242), (20, 30, 80)),
    ("black", (34, 36, 42), (238, 238, 232)),
)
"""Colour word, plate, ink."""

Fill = Callable[[Canvas, PxBox], None]


@dataclass(frozen=True)
class Plate:
    """What stands beside a marker."""

    size_px: tuple[float, float]
    """Width, height."""
    fill: Callable[[Canvas, float, float], WorldObject]
    """Draws it at (left, top)."""


@dataclass(frozen=True)
class Marked:
    """A marker with its plate."""

    marker: Drawn
    plate: WorldObject

    @property
    def box(self) -> Box:
        return self.plate.box


def marker_look(canvas: Canvas, name: tuple[str, str], *, masked: bool = False) -> Look:
    color, shape = name
    diameter = canvas.brief.real(*MARKER_SHARE) * canvas.side
    return Look(shape, color, diameter, angle_deg=canvas.brief.real(-15, 15), masked=masked)


def place_marked(canvas: Canvas, look: Look, plate: Plate) -> Marked:
    """Marker and plate side by side, or one above the other, where there is room."""
    gap = canvas.side * canvas.brief.real(0.008, 0.016)
    size, (width, height) = look.reach_px, plate.size_px
    side = ("right", "left", "below", "above")[canvas.brief.whole(0, 3)]
    if side in ("right", "left"):
        whole = size + gap + width, max(size, height)
        offset = (size + gap, (whole[1] - height) / 2), (size / 2, whole[1] / 2)
        if side == "left":
            offset = (0.0, (whole[1] - height) / 2), (width + gap + size / 2, whole[1] / 2)
    else:
        whole = max(size, width), size + gap + height
        offset = ((whole[0] - width) / 2, size + gap), (whole[0] / 2, size / 2)
        if side == "above":
            offset = ((whole[0] - width) / 2, 0.0), (whole[0] / 2, height + gap + size / 2)
    left, top = canvas.free_place(*whole)
    (plate_x, plate_y), (marker_x, marker_y) = offset
    marker = canvas.draw(look, (left + marker_x, top + marker_y), "marker")
    return Marked(marker, plate.fill(canvas, left + plate_x, top + plate_y))


def sign(canvas: Canvas, text: str) -> Plate:
    """A plate with a line of text."""
    brief = canvas.brief
    cap = brief.real(*CAP_SHARE) * canvas.side
    alpha_hw = text_alpha(text, cap, weight=brief.whole(0, 2), stretch=brief.real(0.95, 1.15))
    margin = round(cap * brief.real(0.7, 1.0))
    height = max(alpha_hw.shape[0], round(cap)) + 2 * margin
    width = alpha_hw.shape[1] + 2 * margin
    color, ground, ink = PLATES[brief.whole(0, len(PLATES) - 1)]

    def fill(canvas: Canvas, left: float, top: float) -> WorldObject:
        x, y = round(left), round(top)
        _blank(canvas, (x, y, width, height), ground)
        down = y + (height - alpha_hw.shape[0]) // 2
        paint(canvas.image_HWC, alpha_hw, np.array(ink), left=x + margin, top=down)
        box = canvas.units((x, y, x + width, y + height))
        thing = WorldObject("sign", color, "rectangle", box, text=text)
        canvas.objects.append(thing)
        return thing

    return Plate((width, height), fill)


def panel(canvas: Canvas, size_px: tuple[float, float], fill_inside: Fill) -> Plate:
    """A light plate whose inside something else draws."""
    width, height = round(size_px[0]), round(size_px[1])
    light = canvas.brief.whole(222, 246)

    def fill(canvas: Canvas, left: float, top: float) -> WorldObject:
        x, y = round(left), round(top)
        _blank(canvas, (x, y, width, height), (light, light, light))
        box_px = (float(x), float(y), float(x + width), float(y + height))
        thing = WorldObject("panel", "white", "square", canvas.units(box_px))
        canvas.objects.append(thing)
        fill_inside(canvas, box_px)
        return thing

    return Plate((width, height), fill)


def _blank(canvas: Canvas, place: tuple[int, int, int, int], ground: tuple[int, int, int]) -> None:
    x, y, width, height = place
    paint(canvas.image_HWC, np.ones((height, width), np.float32), np.array(ground), left=x, top=y)
