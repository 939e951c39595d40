"""Planned calls: a thought, arguments a few units off the truth, and the truth as target."""

from __future__ import annotations

from typing import Any

from pixelis_fast.data.pixelworld.config import Brief
from pixelis_fast.data.pixelworld.task import PlannedTurn, Target
from pixelis_fast.types import Box, Span, ToolCall

SIGN_MARGIN = (0.10, 0.35)
"""Around a sign, of its height."""
ZOOM_MARGIN = (0.15, 0.5)
THING_MARGIN = (0.0, 0.06)
"""Around what is segmented or followed, of its shorter side."""


def read_turn(brief: Brief, thought: str, box: Box, *, time_s: float | None = None) -> PlannedTurn:
    loose = widened(brief, box, SIGN_MARGIN)
    return PlannedTurn(thought, _call("read_text", time_s, box=list(loose)), Target(box=box))


def zoom_turn(brief: Brief, thought: str, box: Box, *, time_s: float | None = None) -> PlannedTurn:
    loose = widened(brief, box, ZOOM_MARGIN)
    return PlannedTurn(thought, _call("zoom", time_s, box=list(loose)), Target(box=box))


def segment_turn(brief: Brief, thought: str, box: Box) -> PlannedTurn:
    """By its box: a point that is off by a thing's radius segments the background, a box that is
    off by as much still holds most of the thing."""
    loose = widened(brief, box, THING_MARGIN)
    return PlannedTurn(thought, _call("segment", None, box=list(loose)), Target(box=box))


def properties_turn(thought: str, mask: int) -> PlannedTurn:
    return PlannedTurn(thought, ToolCall("properties", {"mask": mask}))


def track_turn(brief: Brief, thought: str, box: Box, span: Span) -> PlannedTurn:
    loose = widened(brief, box, THING_MARGIN)
    start_s, end_s = span
    call = _call("track", None, box=list(loose), start=start_s, end=end_s)
    return PlannedTurn(thought, call, Target(box=box, span=span))


def localize_turn(
    thought: str,
    event: str,
    span: Span,
    *,
    box: Box | None = None,
    time_s: float | None = None,
) -> PlannedTurn:
    arguments: dict[str, Any] = {"media": 0, "event": event}
    if box is not None:
        arguments["box"] = list(box)
    if time_s is not None:
        arguments["time"] = time_s
    return PlannedTurn(thought, ToolCall("localize", arguments), Target(box=box, span=span))


def widened(brief: Brief, box: Box, margin: tuple[float, float]) -> Box:
    """A box with room around it, each edge with its own share of the shorter side."""
    shorter = min(box[2] - box[0], box[3] - box[1])
    room = [round(brief.real(*margin) * shorter) for _ in range(4)]
    return (
        max(box[0] - room[0], 0),
        max(box[1] - room[1], 0),
        min(box[2] + room[2], 1000),
        min(box[3] + room[3], 1000),
    )


def _call(operation: str, time_s: float | None, **arguments: Any) -> ToolCall:
    timed = {} if time_s is None else {"time": time_s}
    return ToolCall(operation, {"media": 0, **arguments, **timed})
