"""Places in an enlarged crop and in the original it was cut from, both in 0..1000."""

from __future__ import annotations

from pixelis_fast.types import Box, Point

UNITS = 1000


def outer_box(view: Box, box: Box) -> Box:
    """A box of the crop that shows `view`, as one of the original; at least one unit a side."""
    x0, y0 = outer_point(view, (box[0], box[1]))
    x1, y1 = outer_point(view, (box[2], box[3]))
    x0, y0 = min(x0, UNITS - 1), min(y0, UNITS - 1)
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def outer_point(view: Box, point: Point) -> Point:
    left, top, right, bottom = view
    x, y = point
    return (
        round(left + x * (right - left) / UNITS),
        round(top + y * (bottom - top) / UNITS),
    )


def inner_box(view: Box, box: Box) -> Box:
    """A box of the original, in thousandths of the crop that shows `view`; it may lie outside."""
    x0, y0 = inner_point(view, (box[0], box[1]))
    x1, y1 = inner_point(view, (box[2], box[3]))
    return x0, y0, x1, y1


def inner_point(view: Box, point: Point) -> Point:
    left, top, right, bottom = view
    x, y = point
    return (
        round((x - left) * UNITS / (right - left)),
        round((y - top) * UNITS / (bottom - top)),
    )
