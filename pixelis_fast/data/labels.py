"""What each visual token of a PixelWorld picture, or of a crop of it, shows.

A tower learns from these what a decoder behind it would teach it far more slowly. Three kinds for
every token: colour and shape of the thing that covers its cell most, and the small thing in it (a
sign, a panel). Seven more where a panel's centre lies, if its contents can be seen: how many dots,
and colour and shape of its three glyphs. Then centre and size of the first and of the small thing.

Shapes: M = rows x columns of tokens, L = kinds of labels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pixelis_fast.crops import inner_box
from pixelis_fast.data.pixelworld.task import Task, WorldObject
from pixelis_fast.data.pixelworld.words import COLORS, SHAPES
from pixelis_fast.data.prepared import BOX, SEEN, THINGS, UNKNOWN
from pixelis_fast.types import Box, Point

WHOLE: Box = (0, 0, 1000, 1000)
SHOWN_KINDS = ("marker", "disk", "ball")
SMALL_KINDS = ("sign", "panel")
COVER = dict.fromkeys(SHOWN_KINDS, 0.15) | {"glyph": 0.04}
"""Share of a cell from which on it shows a thing: a glyph only in a crop is as large."""
SMALL_SHARE = 0.3
"""A cell shows a small thing of which so much lies in it."""
LEAST_SIDE = 15
"""Thousandths of a view from which on a dot or a glyph is seen: 3 pixels of 192."""
SHOWN_FAMILIES = ("count", "spatial")
"""Whose answers a crop shows."""
MOST_DOTS = 6
GLYPHS = 3
NUM_LABELS = (
    *(len(COLORS) + 1, len(SHAPES) + 1, len(SMALL_KINDS) + 1),
    *(MOST_DOTS + 1, *[len(COLORS) + 1] * GLYPHS, *[len(SHAPES) + 1] * GLYPHS),
)
KINDS = len(NUM_LABELS)
NOTHING = np.array([0] * SEEN + [UNKNOWN] * (KINDS - SEEN + THINGS * BOX))


def cell_labels(task: Task, rows: int, columns: int, *, view: Box = WHOLE) -> np.ndarray:
    """(M, L + 8) int, of the part of the picture that `view` shows; places in its thousandths.

    Where there is nothing, the kind is 0 and the place unknown.
    """
    labels = np.tile(NOTHING, (rows, columns, 1))
    covered = np.zeros((rows, columns))
    for thing, box in seen(task, view):
        share = cell_shares(box, rows, columns)
        if thing.kind in COVER:
            wins = share > np.maximum(covered, COVER[thing.kind])
            labels[wins, :2] = index_of(thing.color, COLORS), index_of(thing.shape, SHAPES)
            labels[wins, KINDS : KINDS + BOX] = place_of(box)
            covered = np.where(wins, share, covered)
        elif thing.kind in SMALL_KINDS:
            holds = (share > 0) & (share >= min(SMALL_SHARE * share.sum(), share.max()))
            labels[holds, 2] = index_of(thing.kind, SMALL_KINDS)
            labels[holds, KINDS + BOX :] = place_of(box)
            if contents := contents_of(thing, task, view):
                x, y, *_ = place_of(box)
                labels[y * rows // 1001, x * columns // 1001, SEEN:KINDS] = contents
    return labels.reshape(rows * columns, -1)


def seen(task: Task, view: Box) -> Iterator[tuple[WorldObject, Box]]:
    """Things of which the view shows a part, and the box of that part.

    What lies outside cannot be seen: a tower that is told of it must guess.
    """
    for thing in task.objects:
        x0, y0, x1, y1 = (min(max(value, 0), 1000) for value in inner_box(view, thing.box))
        if x0 < x1 and y0 < y1:
            yield thing, (x0, y0, x1, y1)


def contents_of(panel: WorldObject, task: Task, view: Box) -> list[int]:
    """Its dots' number, its glyphs' colours, their shapes; nothing where they cannot be seen."""
    inside = [
        thing
        for thing in task.objects
        if thing.kind in ("dot", "glyph") and holds_centre(panel.box, thing.box)
    ]
    if not inside or not all(is_clear(thing.box, view) for thing in inside):
        return []
    glyphs = [thing for thing in inside if thing.kind == "glyph"]
    # In a row from the left, in a column from the top.
    glyphs.sort(key=lambda thing: sum(place_of(thing.box)[:2]))
    colors = [index_of(thing.color, COLORS) for thing in glyphs]
    shapes = [index_of(thing.shape, SHAPES) for thing in glyphs]
    return [len(inside) - len(glyphs), *(colors or [0] * GLYPHS), *(shapes or [0] * GLYPHS)]


def shown_at(task: Task, view: Box) -> Point | None:
    """Where in a view the answer is seen, in its thousandths; None for what no picture shows."""
    boxes = list(answer_boxes(task))
    if not boxes:
        return None
    x, y, *_ = place_of(inner_box(view, boxes[0]))
    return (x, y) if 0 <= x < 1000 and 0 <= y < 1000 else None


def answer_boxes(task: Task) -> Iterator[Box]:
    """Of the panel whose dots are counted, of the glyph that is asked for."""
    panel = task.evidence[-1].box
    if panel is None or task.family not in SHOWN_FAMILIES:
        return
    if task.family == "count":
        yield panel
    for thing in task.objects:
        named = task.answer in (thing.color, thing.shape)
        if thing.kind == "glyph" and named and holds_centre(panel, thing.box):
            yield thing.box


def holds_centre(box: Box, other: Box) -> bool:
    x, y, *_ = place_of(other)
    return box[0] <= x <= box[2] and box[1] <= y <= box[3]


def is_clear(box: Box, view: Box) -> bool:
    """It lies in the view, and is large enough there."""
    x0, y0, x1, y1 = inner_box(view, box)
    return min(x0, y0) >= 0 and max(x1, y1) <= 1000 and min(x1 - x0, y1 - y0) >= LEAST_SIDE


def index_of(name: str, names: tuple[str, ...] | dict) -> int:
    """From 1; 0 for what has no name, such as black."""
    known = list(names)
    return known.index(name) + 1 if name in known else 0


def place_of(box: Box) -> tuple[int, int, int, int]:
    """Centre and size."""
    x0, y0, x1, y1 = box
    return (x0 + x1) // 2, (y0 + y1) // 2, x1 - x0, y1 - y0


def cell_shares(box: tuple[int, int, int, int], rows: int, columns: int) -> np.ndarray:
    """(rows, columns): share of each cell that the box covers."""
    x0, y0, x1, y1 = (value / 1000 for value in box)
    left, top = np.arange(columns) / columns, np.arange(rows) / rows
    wide = np.clip(np.minimum(x1, left + 1 / columns) - np.maximum(x0, left), 0, None) * columns
    high = np.clip(np.minimum(y1, top + 1 / rows) - np.maximum(y0, top), 0, None) * rows
    return high[:, None] * wide[None]
