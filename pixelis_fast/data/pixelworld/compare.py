"""compare: which of two objects of one shape is larger."""

from __future__ import annotations

from pixelis_fast.data.pixelworld.canvas import Canvas, Drawn, Look, new_canvas
from pixelis_fast.data.pixelworld.config import Brief
from pixelis_fast.data.pixelworld.pairs import hardness, unequal_looks
from pixelis_fast.data.pixelworld.plates import marker_look
from pixelis_fast.data.pixelworld.task import Plan, PlannedTurn, Task, finished
from pixelis_fast.data.pixelworld.turns import properties_turn, segment_turn, zoom_turn
from pixelis_fast.data.pixelworld.words import COLORS, SHAPES, wording
from pixelis_fast.types import AnswerKind, Evidence


def compare_task(brief: Brief) -> Task:
    canvas = new_canvas(brief)
    colors = [list(COLORS)[n] for n in brief.rng.permutation(len(COLORS))]
    pair, difference = unequal_looks(canvas, (colors[0], colors[1]))
    others = [shape for shape in SHAPES if shape != pair[0].shape]
    extra = [
        marker_look(canvas, (colors[brief.whole(0, 5)], others[brief.whole(0, 4)]))
        for _ in range(brief.whole(0, 3))
    ]
    drawn = [_place(canvas, look) for look in (*pair, *extra)][:2]
    larger = max(range(2), key=lambda n: drawn[n].area)
    return finished(
        brief,
        canvas.image_HWC[None],
        canvas.objects,
        question=wording(brief, "compare", x=pair[0].name, y=pair[1].name),
        answer=pair[larger].color,
        answer_kind=AnswerKind.EXACT,
        evidence=tuple(Evidence("segment", box=one.thing.box) for one in drawn),
        plans=_plans(brief, pair, drawn),
        difficulty=hardness(canvas, difference),
    )


def _place(canvas: Canvas, look: Look) -> Drawn:
    left, top = canvas.free_place(look.reach_px, look.reach_px)
    centre = left + look.reach_px / 2, top + look.reach_px / 2
    return canvas.draw(look, centre, "marker")


def _plans(brief: Brief, pair: tuple[Look, Look], drawn: list[Drawn]) -> tuple[Plan, ...]:
    def segments() -> list[PlannedTurn]:
        starts = "i segment the", "now i segment the"
        return [
            segment_turn(brief, f"{start} {look.name}", one.thing.box)
            for start, look, one in zip(starts, pair, drawn, strict=True)
        ]

    first, second = segments()
    measures = [properties_turn(f"i measure the {look.name}", n) for n, look in enumerate(pair)]
    zooms = [
        zoom_turn(brief, f"i look at the {look.name}", one.thing.box)
        for look, one in zip(pair, drawn, strict=True)
    ]
    return (
        (first, second),
        (*segments(), *measures),
        (zooms[0], *segments()),
        (zooms[0], first, measures[0], zooms[1], second, measures[1]),
    )
