"""A plan as a small policy can follow it.

Places lie on a coarse grid with room around them, what is small is looked at in two steps, the
question is said again before each turn, areas are said side by side before a choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pixelis_fast.crops import inner_box, outer_box
from pixelis_fast.data.cota import CotaTurn
from pixelis_fast.data.evident import areas_of, content_of
from pixelis_fast.data.pixelworld.task import Plan, PlannedTurn, Task
from pixelis_fast.schemas import TIMES
from pixelis_fast.types import Box, ToolCall, Trajectory

WEIGHED = ("compare", "multi")
"""Families that choose by area."""
CLOSER = "i look closer"
LOOKS = ("zoom", "read_text")
CLOSER_LOOKS = {"zoom": 2, "read_text": 1}
"""Behind the loose one that a plan ends with. After one, the three glyphs of a panel lay 0.6 visual
tokens apart, and which of them is in the middle was a guess: 30 of 63 right."""
GRID = 50
"""Coordinates are rounded to fifties. A digit that a policy cannot tell is noise to imitate: with
tens, nll of the hundreds' digit came down and the next one stayed at chance."""
SLACK = 50
"""Added around what is zoomed, read or segmented: a box that is off by as much still shows it, and
a small policy's are. Much more would let a neighbour in."""
LOOSE = ("zoom", "read_text", "segment")
"""Calls whose boxes get slack. A track starts from a box: what is beside the ball would be followed
with it."""


def planned(plan: Plan, seconds: Sequence[float]) -> list[CotaTurn]:
    """The plan's calls, in places and times that a policy can tell; `seconds`: printed ones."""
    return [CotaTurn(turn.thought, timed(rounded(turn.call), seconds)) for turn in plan]


def plans_of(task: Task) -> list[Plan]:
    """Those that a small policy can follow, the shortest first.

    What is read is read in a crop, which the turn before cut. The whole picture is looked at once:
    a second look there missed a panel that the first crop had shown in 8 of 43 chains.
    """
    return [plan for plan in task.plans if can_look_first(plan) and num_looks(plan) <= 1]


def can_look_first(plan: Plan) -> bool:
    *before, last = (turn.call.operation for turn in plan)
    return last != "read_text" or before[-1:] == ["zoom"]


def num_looks(plan: Plan) -> int:
    return sum(turn.call.operation == "zoom" for turn in plan)


def looking_closer(turns: Sequence[CotaTurn], task: Task) -> list[CotaTurn]:
    """Of a still picture, the last looks are each inside the crop that the turn before cut.

    A box that a small policy draws in the whole picture must be loose, so that what it is about is
    small in the crop. The same error in the crop is as much smaller as the crop is.
    """
    last = turns[-1]
    if last.call.operation not in LOOKS or len(task.frames) > 1:
        return list(turns)
    found = [*turns] if last.call.operation == "zoom" else [*turns[:-1]]
    view: Box = tuple(found[-1].call.arguments["box"])
    for _ in range(CLOSER_LOOKS[last.call.operation]):
        index = sum(turn.call.operation == "zoom" for turn in found)
        found.append(closer(last, view, task, media=index))
        view = outer_box(view, tuple(found[-1].call.arguments["box"]))
    return found


def closer(
    last: CotaTurn | PlannedTurn, view: Sequence[int], task: Task, *, media: int
) -> CotaTurn:
    """A plan's last look, in the crop that shows `view`."""
    operation = last.call.operation
    thought = CLOSER if operation == "zoom" else last.thought
    return CotaTurn(thought, rounded(inside(operation, view, task, media=media)))


def inside(operation: str, view: Sequence[int], task: Task, *, media: int) -> ToolCall:
    """A call about what shows the answer, in the crop that shows `view`."""
    box = task.evidence[-1].box
    assert box is not None, "drawn with the task"
    x0, y0, x1, y1 = view
    return ToolCall(operation, {"media": media, "box": list(inner_box((x0, y0, x1, y1), box))})


def restating(turns: Sequence[CotaTurn], question: str) -> list[CotaTurn]:
    """Turns behind the first begin with the question: what was asked lies far back by then, and a
    small policy that does not look there answers every crop as if it were asked to count."""
    again = (replace(turn, thought=restated(question, turn.thought)) for turn in turns[1:])
    return [*turns[:1], *again]


def restated(question: str, thought: str = "") -> str:
    return f"{question}\n{thought}"


def weighing(
    turns: Sequence[CotaTurn], thought: str, question: str, trajectory: Trajectory
) -> tuple[list[CotaTurn], str]:
    """The turns, and the answer's thought, that choose between masks say their areas first, and
    which of them is larger.

    Two numbers far apart in a context are hard to compare; side by side, a few layers can. Which
    thing that is then is another question, and one token later.
    """
    seen = [step.observation for step in trajectory.steps]
    areas = [areas_of([content_of(one) for one in seen[:n] if one]) for n in range(len(seen))]
    looks = [weighed(turn, question, known) for turn, known in zip(turns, areas, strict=False)]
    return looks, quoting(thought, question, areas[-1])


def weighed(turn: CotaTurn, question: str, areas: Sequence[float]) -> CotaTurn:
    """A look with the areas it may depend on; any other turn as it is."""
    if turn.call.operation not in LOOKS:
        return turn
    return replace(turn, thought=quoting(turn.thought, question, areas))


def placing(question: str, trajectory: Trajectory) -> str:
    """An answer's thought that says first where a track ends.

    The box is the last of sixteen, in front of a hundred other tokens: a policy that did not say it
    answered 13 of 28 questions wrong, 12 of them behind the right track.
    """
    seen = [step.observation for step in trajectory.steps]
    tracks = [content_of(one)["track"] for one in seen if one and "track" in content_of(one)]
    return restated(question, f"{place_said(tracks[-1][-1])}\n")


def place_said(row: Sequence[Any]) -> str:
    """A track's row without its time."""
    return ",".join(str(value) for value in row[1:])


def quoting(thought: str, question: str, areas: Sequence[float]) -> str:
    """The last two things measured, and which is larger, between the question and the rest of a
    thought."""
    if len(areas) < 2:
        return thought
    first, second = areas[-2:]
    weighed = f"{first} {second} the {'first' if first > second else 'second'}"
    return restated(restated(question, weighed), thought.partition("\n")[2])


def rounded(call: ToolCall) -> ToolCall:
    """Points to the nearest of the grid, boxes outwards, with slack around most."""
    arguments: dict[str, Any] = dict(call.arguments)
    if "point" in arguments:
        arguments["point"] = [round(value / GRID) * GRID for value in arguments["point"]]
    if "box" in arguments:
        slack = SLACK if call.operation in LOOSE else 0
        x0, y0, x1, y1 = arguments["box"]
        low = [max(value - slack, 0) // GRID * GRID for value in (x0, y0)]
        high = [-(-min(value + slack, 1000) // GRID) * GRID for value in (x1, y1)]
        arguments["box"] = low + high
    return ToolCall(call.operation, arguments)


def shaken(call: ToolCall, rng: np.random.Generator) -> ToolCall:
    """Its box a little off in every direction, as a policy's is; what lies in it stays in it,
    because `rounded` adds as much around it."""
    x, y = rng.integers(-SLACK // 2, SLACK // 2 + 1, 2)
    x0, y0, x1, y1 = call.arguments["box"]
    box = [int(np.clip(value, 0, 1000)) for value in (x0 + x, y0 + y, x1 + x, y1 + y)]
    return ToolCall(call.operation, {**call.arguments, "box": box})


def timed(call: ToolCall, seconds: Sequence[float]) -> ToolCall:
    """No time lies behind the last that the prompt prints: an end is copied, not guessed; and so is
    the moment at which something is seen. Where a ball starts is not moved away from its box."""
    printed = [round(second, 1) for second in seconds]
    last = max(printed, default=math.inf)
    times = {name: min(call.arguments[name], last) for name in TIMES if name in call.arguments}
    if call.operation == "localize" and "time" in times:
        times["time"] = min(printed, key=lambda second: abs(second - times["time"]))
    return ToolCall(call.operation, {**call.arguments, **times})
