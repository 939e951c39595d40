"""read: what does the sign beside a marker say."""

from __future__ import annotations

from pixelis_fast.data.pixelworld.canvas import new_canvas
from pixelis_fast.data.pixelworld.config import Brief
from pixelis_fast.data.pixelworld.plates import marker_look, place_marked, sign
from pixelis_fast.data.pixelworld.task import Task, finished
from pixelis_fast.data.pixelworld.turns import read_turn, zoom_turn
from pixelis_fast.data.pixelworld.words import distinct_texts, names, wording
from pixelis_fast.types import AnswerKind, Evidence


def read_task(brief: Brief) -> Task:
    canvas = new_canvas(brief)
    count = brief.whole(2, 5)
    looks = [marker_look(canvas, name) for name in names(brief, count)]
    texts = distinct_texts(brief, count)
    marked = [
        place_marked(canvas, look, sign(canvas, text))
        for look, text in zip(looks, texts, strict=True)
    ]
    name, box, text = looks[0].name, marked[0].box, texts[0]
    read = read_turn(brief, f"i read the sign beside the {name}", box)
    zoom = zoom_turn(brief, f"i look beside the {name}", box)
    plans = ((read,), (zoom, read_turn(brief, "now i read the sign", box)))
    return finished(
        brief,
        canvas.image_HWC[None],
        canvas.objects,
        question=wording(brief, "read", x=name),
        answer=text,
        answer_kind=AnswerKind.TEXT,
        evidence=(Evidence("read_text", box=box, text=text),),
        plans=plans,
        difficulty=(count - 2) / 3,
    )
