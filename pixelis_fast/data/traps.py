"""Traps: a plan with a wrong call before the right one, so that correction is something one learns.

The wrong call is run like any other, shown, and not imitated; what follows it is. Perceptual: the
right tool at another thing. Logical: a tool that cannot answer here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pixelis_fast.data.cota import CotaTurn
from pixelis_fast.data.pixelworld.task import Task
from pixelis_fast.types import ToolCall

CORRECTION = "that is not it , "


def trapped(turns: Sequence[CotaTurn], task: Task, rng: np.random.Generator) -> list[CotaTurn]:
    """The turns with a trap before the first; unchanged where no trap fits."""
    first, *rest = turns
    trap = perceptual(first, task, rng) if rng.random() < 0.6 else logical(first, task)
    if trap is None:
        return list(turns)
    corrected = CotaTurn(CORRECTION + first.thought, first.call, kind="correction")
    return [CotaTurn(first.thought, trap, kind="trap"), corrected, *rest]


def perceptual(turn: CotaTurn, task: Task, rng: np.random.Generator) -> ToolCall | None:
    """The same call somewhere else in the picture."""
    arguments = turn.call.arguments
    if "box" in arguments:
        return ToolCall(turn.call.operation, arguments | {"box": moved(arguments["box"], rng)})
    if "point" in arguments:
        x, y = arguments["point"]
        away = [(x + int(rng.integers(250, 750))) % 1000, (y + int(rng.integers(250, 750))) % 1000]
        return ToolCall(turn.call.operation, arguments | {"point": away})
    return None


def moved(box: Sequence[int], rng: np.random.Generator) -> list[int]:
    """A box of the same size that shares at most a corner with this one."""
    x0, y0, x1, y1 = box
    width, height = x1 - x0, y1 - y0
    for _ in range(20):
        left = int(rng.integers(0, max(1000 - width, 0) + 1))
        top = int(rng.integers(0, max(1000 - height, 0) + 1))
        if left >= x1 or left + width <= x0 or top >= y1 or top + height <= y0:
            return [left, top, left + width, top + height]
    return [0, 0, width, height]


def logical(turn: CotaTurn, task: Task) -> ToolCall | None:
    """Properties of a mask that nobody made, or a search for events in a picture."""
    if len(task.frames) > 1:
        return ToolCall("properties", {"mask": 0})
    if turn.call.operation == "segment":
        return ToolCall("properties", {"mask": 0})
    return ToolCall("localize", {"media": 0, "event": "motion"})
