"""Where and when a call looked, and how alike two such places are, from 0 to 1.

Coordinates are 0..1000 of the original frame, seconds where there is time. A call without a box or
point looked at the whole frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pycocotools import mask as coco

from pixelis_fast.types import Box, Mask, Media, Point, Span, ToolCall
from pixelis_fast.voting_answers import canonical

WHOLE: Box = (0, 0, 1000, 1000)
POINT_REACH = 200.0
"""Points this far apart have nothing in common."""
TIME_REACH_S = 1.0
"""Moments this far apart have nothing in common."""


@dataclass(frozen=True)
class Footprint:
    """One call's place in the media.

    Example:
        Footprint("zoom", media=0, box=(100, 100, 300, 300))
    """

    operation: str
    media: int
    """Index of the sample's media."""
    box: Box | None = None
    point: Point | None = None
    time_s: float | None = None
    span: Span | None = None
    words: str = ""
    """Event and query, canonical."""


def footprint(call: ToolCall, media: Sequence[Media], masks: Sequence[Mask]) -> Footprint:
    """`media` are the sample's, `masks` those that earlier observations named."""
    asked = call.arguments
    if "mask" in asked:
        mask = masks[asked["mask"]]
        shown = [each.id for each in media].index(mask.media_id)
        return Footprint(call.operation, shown, box=mask_box(mask), time_s=mask.time_s)
    span = (float(asked["start"]), float(asked["end"])) if "start" in asked else None
    return Footprint(
        call.operation,
        asked["media"],
        box=tuple(asked["box"]) if "box" in asked else None,
        point=tuple(asked["point"]) if "point" in asked else None,
        time_s=float(asked["time"]) if "time" in asked else None,
        span=span,
        words=canonical(f"{asked.get('event', '')} {asked.get('query', '')}"),
    )


def mask_box(mask: Mask) -> Box:
    """The box around its pixels."""
    x, y, w, h = coco.toBbox({"size": list(mask.size), "counts": mask.counts.encode()})
    height, width = mask.size
    corners = (x / width, y / height, (x + w) / width, (y + h) / height)
    x0, y0, x1, y1 = (round(1000 * corner) for corner in corners)
    return x0, y0, x1, y1


def overlap(one: Footprint, other: Footprint) -> float:
    """1 for the same place, time and words; 0 for other media or nothing in common."""
    if (one.media, one.words) != (other.media, other.words):
        return 0.0
    return _space(one, other) * _moment(one.time_s, other.time_s) * _spans(one.span, other.span)


def _space(one: Footprint, other: Footprint) -> float:
    """Two points by distance, else boxes; a point beside a box counts as the box's centre would."""
    if one.point is None and other.point is None:
        return box_overlap(one.box or WHOLE, other.box or WHOLE)
    (ax, ay), (bx, by) = _centre(one), _centre(other)
    return max(0.0, 1 - math.hypot(ax - bx, ay - by) / POINT_REACH)


def _centre(place: Footprint) -> tuple[float, float]:
    if place.point is not None:
        return place.point
    x0, y0, x1, y1 = place.box or WHOLE
    return (x0 + x1) / 2, (y0 + y1) / 2


def box_overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    union = _area(one) + _area(other) - shared
    return shared / union if union else float(one == other)


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _moment(one: float | None, other: float | None) -> float:
    if one is None or other is None:
        return float(one is other)
    return max(0.0, 1 - abs(one - other) / TIME_REACH_S)


def _spans(one: Span | None, other: Span | None) -> float:
    if one is None or other is None:
        return float(one is other)
    shared = max(min(one[1], other[1]) - max(one[0], other[0]), 0.0)
    union = (one[1] - one[0]) + (other[1] - other[0]) - shared
    return shared / union if union else float(one == other)
