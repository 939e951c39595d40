"""Whether a chain's observations show its task's answer: only such chains are worth imitating.

Tools are real and err; a chain whose OCR misread the sign would teach an answer from nowhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from pixelis_fast.data.pixelworld.task import Task
from pixelis_fast.types import Observation, Trajectory

TIME_S = 0.15
"""How far a localised time may lie from the answer, which has one decimal."""


def is_evident(task: Task, trajectory: Trajectory) -> bool:
    """The answer follows from what the tools said; what a crop shows is taken to be seen."""
    contents = [content_of(step.observation) for step in trajectory.steps if step.observation]
    return SHOWN[task.family](task, contents)


def content_of(observation: Observation) -> dict[str, Any]:
    return json.loads(observation.text)


def read_out(task: Task, contents: list[dict[str, Any]]) -> bool:
    """The sign is the last text read, alone or first."""
    lines = [content["lines"] for content in contents if "lines" in content]
    return bool(lines) and [line["text"] for line in lines[-1]] == [task.answer]


def compared(task: Task, contents: list[dict[str, Any]]) -> bool:
    """The larger of the two areas is that of the answer's object, by a tenth of a permille."""
    areas = areas_of(contents)
    colors = [name.split()[0] for name in asked_names(task)]
    if len(areas) < 2 or len(colors) < 2 or areas[-2] == areas[-1]:
        return False
    return colors[0 if areas[-2] > areas[-1] else 1] == task.answer


def areas_of(contents: list[dict[str, Any]]) -> list[float]:
    """Of every mask once, in order; a later measurement says the same."""
    return [content["area"] for content in contents if "mask" in content and "area" in content]


def asked_names(task: Task) -> list[str]:
    """'red disk', 'blue disk' in the order the plan segments them."""
    segments = [turn for turn in task.plans[0] if turn.call.operation == "segment"]
    return [" ".join(turn.thought.split()[-2:]) for turn in segments]


def zoomed(task: Task, contents: list[dict[str, Any]]) -> bool:
    return any("view" in content for content in contents)


def followed(task: Task, contents: list[dict[str, Any]]) -> bool:
    """The last place of the last track is the answer's third of the frame."""
    tracks = [content["track"] for content in contents if "track" in content]
    if not tracks or len(tracks[-1][-1]) != 5:
        return False
    _, x0, y0, x1, y1 = tracks[-1][-1]
    return task.answer in (third((x0 + x1) / 2, THIRDS_X), third((y0 + y1) / 2, THIRDS_Y))


THIRDS_X, THIRDS_Y = ("left", "middle", "right"), ("top", "middle", "bottom")


def third(value: float, names: tuple[str, str, str]) -> str:
    return names[min(int(value * 3 / 1000), 2)]


def localized(task: Task, contents: list[dict[str, Any]]) -> bool:
    spans = [content["spans"] for content in contents if content.get("spans")]
    return bool(spans) and abs(spans[-1][0][0] - float(task.answer)) <= TIME_S


def read_beside_larger(task: Task, contents: list[dict[str, Any]]) -> bool:
    """What was measured says too that the sign's own thing is the larger one."""
    masks = [content for content in contents if "mask" in content and "area" in content][-2:]
    sign = task.evidence[-1].box
    if len(masks) < 2 or sign is None or masks[0]["area"] == masks[1]["area"]:
        return False
    larger = max(masks, key=lambda mask: mask["area"])
    nearest = min(masks, key=lambda mask: math.dist(centre(mask["box"]), centre(sign)))
    return larger is nearest and read_out(task, contents)


def centre(box: Sequence[int]) -> tuple[float, float]:
    x0, y0, x1, y1 = box
    return (x0 + x1) / 2, (y0 + y1) / 2


SHOWN = {
    "read": read_out,
    "compare": compared,
    "count": zoomed,
    "spatial": zoomed,
    "track": followed,
    "localize": localized,
    "multi": read_beside_larger,
}
