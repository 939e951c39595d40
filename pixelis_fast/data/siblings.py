"""The same question about a panel's other glyphs: three answers for one look."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pixelis_fast.data.labels import holds_centre, place_of
from pixelis_fast.data.pixelworld.spatial import COLUMN, ROW
from pixelis_fast.data.pixelworld.task import Task


def siblings(task: Task) -> Iterator[Task]:
    """The task itself and, of a spatial one, those about the other places."""
    panel = task.evidence[-1].box
    if task.family != "spatial" or panel is None:
        yield task
        return
    glyphs = [
        thing for thing in task.objects if thing.kind == "glyph" and holds_centre(panel, thing.box)
    ]
    glyphs.sort(key=lambda thing: sum(place_of(thing.box)[:2]))
    _, _, width, height = place_of(panel)
    asked = next(place for place in ROW + COLUMN if place in task.question)
    for place, glyph in zip(ROW if width > height else COLUMN, glyphs, strict=True):
        answer = glyph.shape if glyph.color == "black" else glyph.color
        yield replace(task, question=task.question.replace(asked, place), answer=answer)
