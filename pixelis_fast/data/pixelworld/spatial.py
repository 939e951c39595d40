"""spatial: which of three tiny glyphs in the panel beside a marker is at a place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pixelis_fast.data.pixelworld.canvas import Canvas, PxBox, inked, new_canvas
from pixelis_fast.data.pixelworld.config import Brief
from pixelis_fast.data.pixelworld.plates import Plate, marker_look, panel, place_marked
from pixelis_fast.data.pixelworld.shapes import paint, shape_alpha
from pixelis_fast.data.pixelworld.task import Task, WorldObject, finished
from pixelis_fast.data.pixelworld.turns import zoom_turn
from pixelis_fast.data.pixelworld.words import COLORS, SHAPES, names, wording
from pixelis_fast.types import AnswerKind, Evidence

ROW = ("on the left", "in the middle", "on the right")
COLUMN = ("at the top", "in the middle", "at the bottom")
GLYPH_SHARE = {"shape": (0.012, 0.013), "color": (0.0058, 0.0065)}
"""Diameter of a glyph, of the side: colours show from farther away than shapes."""
BLACK = (24, 24, 28)
PITCH = {"shape": 1.25, "color": 1.2}
"""Distance of neighbours, in diameters."""


def spatial_task(brief: Brief) -> Task:
    canvas = new_canvas(brief)
    wanted = "shape" if brief.chance(0.5) else "color"
    across = brief.chance(0.5)
    looks = [marker_look(canvas, name) for name in names(brief, brief.whole(2, 4))]
    glyphs = [_three(brief, wanted) for _ in looks]
    marked = [
        place_marked(canvas, look, _glyphed(canvas, three, wanted, across))
        for look, three in zip(looks, glyphs, strict=True)
    ]
    place = brief.whole(0, 2)
    name, box = looks[0].name, marked[0].box
    look_once = zoom_turn(brief, f"i look beside the {name}", box)
    look_first = zoom_turn(brief, f"i look at the {name}", marked[0].marker.thing.box)
    color, shape = glyphs[0][place]
    return finished(
        brief,
        canvas.image_HWC[None],
        canvas.objects,
        question=wording(brief, f"spatial_{wanted}", x=name, at=(ROW if across else COLUMN)[place]),
        answer=shape if wanted == "shape" else color,
        answer_kind=AnswerKind.EXACT,
        evidence=(Evidence("zoom", box=box),),
        plans=((look_once,), (look_first, look_once)),
        difficulty=(len(looks) - 2) / 2,
    )


def _three(brief: Brief, wanted: str) -> list[tuple[str, str]]:
    """(colour, shape) of each glyph: what is asked for differs, the other is the same for all."""
    if wanted == "shape":
        return [("black", SHAPES[n]) for n in brief.rng.permutation(len(SHAPES))[:3]]
    colors = list(COLORS)
    return [(colors[n], "square") for n in brief.rng.permutation(len(colors))[:3]]


def _glyphed(canvas: Canvas, glyphs: Sequence[tuple[str, str]], wanted: str, across: bool) -> Plate:
    brief = canvas.brief
    diameter = brief.real(*GLYPH_SHARE[wanted]) * canvas.side
    step = diameter * PITCH[wanted]
    long, short = 2 * step + diameter * 1.6, diameter * 1.6
    long, short = max(long, 0.036 * canvas.side), max(short, 0.026 * canvas.side)

    def fill(canvas: Canvas, box_px: PxBox) -> None:
        middle = (box_px[0] + box_px[2]) / 2, (box_px[1] + box_px[3]) / 2
        for number, (color, shape) in enumerate(glyphs):
            off = (number - 1) * step
            centre = (middle[0] + off, middle[1]) if across else (middle[0], middle[1] + off)
            _draw_glyph(canvas, (color, shape), centre, diameter)

    return panel(canvas, (long, short) if across else (short, long), fill)


def _draw_glyph(
    canvas: Canvas, name: tuple[str, str], centre: tuple[float, float], diameter: float
) -> None:
    color, shape = name
    ink = np.array(COLORS.get(color, BLACK))
    alpha_hw = shape_alpha(shape, diameter)
    half = alpha_hw.shape[0] / 2
    left, top = round(centre[0] - half), round(centre[1] - half)
    paint(canvas.image_HWC, alpha_hw, ink, left=left, top=top)
    box = canvas.units(inked(alpha_hw, left, top))
    canvas.objects.append(WorldObject("glyph", color, shape, box))
