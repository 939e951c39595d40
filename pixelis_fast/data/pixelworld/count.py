"""count: how many tiny dots are in the panel beside a marker."""

from __future__ import annotations

import numpy as np

from pixelis_fast.data.pixelworld.canvas import Canvas, PxBox, new_canvas
from pixelis_fast.data.pixelworld.config import Brief, NoRoomError
from pixelis_fast.data.pixelworld.plates import Plate, marker_look, panel, place_marked
from pixelis_fast.data.pixelworld.shapes import paint, shape_alpha
from pixelis_fast.data.pixelworld.task import Task, WorldObject, finished
from pixelis_fast.data.pixelworld.turns import zoom_turn
from pixelis_fast.data.pixelworld.words import names, wording
from pixelis_fast.types import AnswerKind, Evidence

MOST = 6
PANEL_SHARE = (0.036, 0.042)
DOT_SHARE = (0.005, 0.0056)
"""Diameter of a dot, of the side; all dots of a panel are alike."""
APART = 1.45
"""Least distance of dots' centres, in diameters."""


def count_task(brief: Brief) -> Task:
    canvas = new_canvas(brief)
    looks = [marker_look(canvas, name) for name in names(brief, brief.whole(2, 4))]
    counts = [brief.whole(1, MOST) for _ in looks]
    marked = [
        place_marked(canvas, look, _dotted(canvas, count))
        for look, count in zip(looks, counts, strict=True)
    ]
    name, box = looks[0].name, marked[0].box
    look_once = zoom_turn(brief, f"i look beside the {name}", box)
    look_first = zoom_turn(brief, f"i look at the {name}", marked[0].marker.thing.box)
    return finished(
        brief,
        canvas.image_HWC[None],
        canvas.objects,
        question=wording(brief, "count", x=name),
        answer=str(counts[0]),
        answer_kind=AnswerKind.NUMBER,
        evidence=(Evidence("zoom", box=box),),
        plans=((look_once,), (look_first, look_once)),
        difficulty=(counts[0] - 1) / (MOST - 1),
    )


def _dotted(canvas: Canvas, count: int) -> Plate:
    brief = canvas.brief
    size = brief.real(*PANEL_SHARE) * canvas.side
    diameter = brief.real(*DOT_SHARE) * canvas.side
    # Ink that varies keeps the count out of the panel's mean.
    ink = np.array([brief.real(10, 110)] * 3)

    def fill(canvas: Canvas, box_px: PxBox) -> None:
        alpha_hw = shape_alpha("disk", diameter)
        half = alpha_hw.shape[0] / 2
        for x, y in _centres(brief, count, box_px, diameter):
            left, top = round(x - half), round(y - half)
            paint(canvas.image_HWC, alpha_hw, ink, left=left, top=top)
            dot = (x - diameter / 2, y - diameter / 2, x + diameter / 2, y + diameter / 2)
            canvas.objects.append(WorldObject("dot", "black", "disk", canvas.units(dot)))

    return panel(canvas, (size, size), fill)


def _centres(brief: Brief, count: int, box_px: PxBox, diameter: float) -> list[tuple[float, float]]:
    rim = diameter
    centres: list[tuple[float, float]] = []
    for _ in range(400):
        x = brief.real(box_px[0] + rim, box_px[2] - rim)
        y = brief.real(box_px[1] + rim, box_px[3] - rim)
        if all(np.hypot(x - a, y - b) > APART * diameter for a, b in centres):
            centres.append((x, y))
        if len(centres) == count:
            return centres
    raise NoRoomError
