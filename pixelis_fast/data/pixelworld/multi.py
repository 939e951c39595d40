"""multi: of two objects of one colour and shape, what does the sign beside the larger one say."""

from __future__ import annotations

from pixelis_fast.data.pixelworld.canvas import new_canvas
from pixelis_fast.data.pixelworld.config import Brief
from pixelis_fast.data.pixelworld.pairs import hardness, unequal_looks
from pixelis_fast.data.pixelworld.plates import Marked, place_marked, sign
from pixelis_fast.data.pixelworld.task import Plan, PlannedTurn, Task, finished
from pixelis_fast.data.pixelworld.turns import (
    properties_turn,
    read_turn,
    segment_turn,
    zoom_turn,
)
from pixelis_fast.data.pixelworld.words import COLORS, distinct_texts, wording
from pixelis_fast.types import AnswerKind, Evidence


def multi_task(brief: Brief) -> Task:
    canvas = new_canvas(brief)
    color = list(COLORS)[brief.whole(0, len(COLORS) - 1)]
    looks, difference = unequal_looks(canvas, (color, color))
    texts = distinct_texts(brief, 2)
    placed = [
        place_marked(canvas, look, sign(canvas, text))
        for look, text in zip(looks, texts, strict=True)
    ]
    pair = sorted(placed, key=lambda marked: marked.marker.point)
    larger = max(pair, key=lambda marked: marked.marker.area)
    text = larger.plate.text or ""
    segments = tuple(Evidence("segment", box=one.marker.thing.box) for one in pair)
    return finished(
        brief,
        canvas.image_HWC[None],
        canvas.objects,
        question=wording(brief, "multi", x=looks[0].name),
        answer=text,
        answer_kind=AnswerKind.TEXT,
        evidence=(*segments, Evidence("read_text", box=larger.box, text=text)),
        plans=_plans(brief, pair, larger, looks[0].shape),
        difficulty=0.5 + 0.5 * hardness(canvas, difference),
    )


def _plans(brief: Brief, pair: list[Marked], larger: Marked, shape: str) -> tuple[Plan, ...]:
    def segments() -> list[PlannedTurn]:
        thoughts = f"i segment the first {shape}", f"now i segment the other {shape}"
        return [
            segment_turn(brief, thought, one.marker.thing.box)
            for thought, one in zip(thoughts, pair, strict=True)
        ]

    thought = f"i read the sign beside the larger {shape}"
    read = read_turn(brief, thought, larger.box)
    look = zoom_turn(brief, f"i look beside the larger {shape}", larger.box)
    measures = [
        properties_turn("i measure the first mask", 0),
        properties_turn("i measure the other mask", 1),
    ]
    return (
        (*segments(), read),
        (*segments(), look, read),
        (*segments(), *measures, read),
        (*segments(), *measures, look, read),
    )
