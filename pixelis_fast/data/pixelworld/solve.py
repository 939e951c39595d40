"""Runs a plan with the real tools and reads the answer off what they return.

Zooms are answered by eye: for count and spatial a plan is right when its last view shows the panel.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycocotools import mask as coco

from pixelis_fast.data.pixelworld.media import save_media
from pixelis_fast.data.pixelworld.task import Plan, Task, WorldObject
from pixelis_fast.tools import ToolBox, Workspace
from pixelis_fast.types import Observation, ToolCall

NEAR_S = 0.3


@dataclass(frozen=True)
class Solved:
    """What came of a plan."""

    is_right: bool
    ious: tuple[float, ...] = ()
    """Of segmented objects with the drawn ones."""
    off_s: float | None = None
    """How far from the truth an event was found."""
    said: str = ""
    """The answer read off the observations, or the error that ended the plan."""


def solve(task: Task, plan: Plan, tools: ToolBox, folder: Path) -> Solved:
    workspace = Workspace((tools.add_media(save_media(task, folder)),))
    results: list[tuple[ToolCall, Observation]] = []
    for turn in plan:
        observation = tools.run(turn.call, workspace)
        if observation.error is not None:
            return Solved(False, said=observation.error)
        results.append((turn.call, observation))
    return JUDGES[task.family](task, [Seen(call, seen) for call, seen in results])


class Seen:
    """A call with its observation."""

    def __init__(self, call: ToolCall, observation: Observation) -> None:
        self.call, self.observation = call, observation
        self.content: dict[str, Any] = json.loads(observation.text)


def _of(operation: str, seen: Sequence[Seen]) -> list[Seen]:
    return [one for one in seen if one.call.operation == operation]


def _read(task: Task, seen: Sequence[Seen]) -> Solved:
    lines = _of("read_text", seen)[-1].content["lines"]
    said = " ".join(line["text"] for line in lines)
    return Solved(said == task.answer, said=said)


def _compare(task: Task, seen: Sequence[Seen]) -> Solved:
    segments = _of("segment", seen)
    areas = [one.content["area"] for one in segments]
    drawn = _segmented(task, segments)
    found, true = _largest(drawn, areas), _largest(drawn, [_area(thing) for thing in drawn])
    ious = tuple(_iou(one, thing) for one, thing in zip(segments, drawn, strict=True))
    return Solved(found is true and areas[0] != areas[1], ious, said=f"{found.color} {areas}")


def _multi(task: Task, seen: Sequence[Seen]) -> Solved:
    compared, read = _compare(task, seen), _read(task, seen)
    said = read.said if compared.is_right else compared.said
    return Solved(compared.is_right and read.is_right, compared.ious, said=said)


def _segmented(task: Task, segments: Sequence[Seen]) -> list[WorldObject]:
    """The masked object whose centre is nearest to that of each call's box."""
    masked = [thing for thing in task.objects if thing.mask_rle is not None]

    def nearest(box: Sequence[int]) -> WorldObject:
        return min(masked, key=lambda thing: _apart(thing.box, box))

    return [nearest(one.call.arguments["box"]) for one in segments]


def _apart(a: Sequence[int], b: Sequence[int]) -> int:
    """Of two centres, doubled."""
    return abs(a[0] + a[2] - b[0] - b[2]) + abs(a[1] + a[3] - b[1] - b[3])


def _largest(things: Sequence[WorldObject], areas: Sequence[float]) -> WorldObject:
    return things[max(range(len(things)), key=areas.__getitem__)]


def _area(thing: WorldObject) -> float:
    return float(coco.area(_rle(thing)))


def _iou(one: Seen, thing: WorldObject) -> float:
    mask = one.observation.masks[0]
    found = {"size": list(mask.size), "counts": mask.counts.encode()}
    return float(coco.iou([found], [_rle(thing)], [0])[0, 0])


def _rle(thing: WorldObject) -> dict[str, Any]:
    assert thing.mask_rle is not None, "asked of masked objects only"
    return {**thing.mask_rle, "counts": thing.mask_rle["counts"].encode()}


def _zoom(task: Task, seen: Sequence[Seen]) -> Solved:
    view, box = seen[-1].content["view"], task.evidence[0].box
    assert box is not None, "drawn with the task"
    is_inside = view[0] <= box[0] and view[1] <= box[1] and view[2] >= box[2] and view[3] >= box[3]
    return Solved(is_inside, said=str(view))


def _track(task: Task, seen: Sequence[Seen]) -> Solved:
    last = _of("track", seen)[-1].content["track"][-1]
    if len(last) != 5:
        return Solved(False, said="lost")
    x, y = (last[1] + last[3]) / 2, (last[2] + last[4]) / 2
    true = task.evidence[0].box
    assert true is not None, "drawn with the task"
    off = max(abs(x - (true[0] + true[2]) / 2), abs(y - (true[1] + true[3]) / 2))
    return Solved(off < 100, said=f"{x:.0f}, {y:.0f}")


def _localize(task: Task, seen: Sequence[Seen]) -> Solved:
    spans = _of("localize", seen)[-1].content["spans"]
    if not spans:
        return Solved(False, said="no span")
    off_s = abs(spans[0][0] - float(task.answer))
    return Solved(off_s <= NEAR_S + 1e-6, off_s=off_s, said=f"{spans[0][0]}")


JUDGES: dict[str, Callable[[Task, Sequence[Seen]], Solved]] = {
    "read": _read,
    "compare": _compare,
    "multi": _multi,
    "count": _zoom,
    "spatial": _zoom,
    "track": _track,
    "localize": _localize,
}
