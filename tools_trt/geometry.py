"""Boxes and points between the 0..1000 frame of the policy and pixels of one picture.

Boxes to pixels round outwards, so a box of one unit still covers a pixel; pixels to boxes round to
the nearest unit. The only place that checks a box a caller gave.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real

import numpy as np

from pixelis_fast.tools_trt.results import Box, Point, ToolInputError

UNITS = 1000
"""Both sides of a frame measure this many units."""
SHOWN_CHARS = 120
"""Of a wrong argument in a message that a policy reads."""


def check_box(box: Sequence[int]) -> Box:
    """The box as a tuple of ints; ToolInputError unless 0 <= x0 < x1 <= 1000, same for y."""
    whole = whole_numbers(box, 4)
    if whole is not None:
        x0, y0, x1, y1 = whole
        if 0 <= x0 < x1 <= UNITS and 0 <= y0 < y1 <= UNITS:
            return x0, y0, x1, y1
    raise ToolInputError(
        "box: expected integers [x0, y0, x1, y1] with 0 <= x0 < x1 <= 1000 and "
        f"0 <= y0 < y1 <= 1000, got {shown(box)}"
    )


def check_point(point: Sequence[int]) -> Point:
    """The point as a tuple of ints; ToolInputError unless both lie in 0..1000."""
    whole = whole_numbers(point, 2)
    if whole is not None and all(0 <= value <= UNITS for value in whole):
        return whole[0], whole[1]
    raise ToolInputError(f"point: expected integers [x, y] in 0..1000, got {shown(point)}")


def whole_numbers(values: object, count: int) -> tuple[int, ...] | None:
    """A sequence of so many whole numbers as ints; None when it is anything else."""
    is_list = isinstance(values, (Sequence, np.ndarray)) and len(values) == count
    if not is_list or not all(map(_is_whole, values)):  # type: ignore[call-overload]
        return None
    return tuple(int(value) for value in values)  # type: ignore[attr-defined]


def shown(value: object) -> str:
    """What a caller gave, short enough for a message."""
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "…"


def box_to_px(box: Sequence[int], width: int, height: int) -> tuple[int, int, int, int]:
    """Pixels the box touches, (x0, y0, x1, y1) with x1 and y1 exclusive; never empty."""
    x0, y0, x1, y1 = check_box(box)
    return (
        x0 * width // UNITS,
        y0 * height // UNITS,
        -(-x1 * width // UNITS),
        -(-y1 * height // UNITS),
    )


def px_to_box(box_px: Sequence[float], width: int, height: int) -> Box:
    """Nearest box in units, cut to the frame, at least one unit wide and high."""
    x0, x1 = _units_range(box_px[0], box_px[2], width)
    y0, y1 = _units_range(box_px[1], box_px[3], height)
    return x0, y0, x1, y1


def point_to_px(point: Sequence[int], width: int, height: int) -> tuple[int, int]:
    """The pixel (x, y) under the point."""
    x, y = check_point(point)
    return min(x * width // UNITS, width - 1), min(y * height // UNITS, height - 1)


def px_to_point(x: float, y: float, width: int, height: int) -> Point:
    """Nearest point in units, cut to the frame; x = 0 is the left edge of the first pixel."""
    return _unit(x, width), _unit(y, height)


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) or (isinstance(value, Real) and float(value).is_integer())


def _units_range(low: float, high: float, size: int) -> tuple[int, int]:
    first = min(_unit(low, size), UNITS - 1)
    return first, max(_unit(high, size), first + 1)


def _unit(value: float, size: int) -> int:
    return min(max(int(value * UNITS / size + 0.5), 0), UNITS)
