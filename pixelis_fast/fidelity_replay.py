"""Runs a trajectory's calls again with slightly other prompts, and says what they claim then.

The calls run in order on a workspace of their own, so that properties are measured on the second
mask; where a second run made no mask, the first one's keeps its place and its index.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from pixelis_fast.fidelity_claims import Claim, claims, named_masks
from pixelis_fast.schemas import MAX_COORDINATE
from pixelis_fast.tools import ToolBox, Workspace
from pixelis_fast.types import Mask, Step, ToolCall, Trajectory

NEARLY_WHOLE = [15, 15, 985, 985]
"""What a call about the whole frame is asked about again. Always the same: a group of trajectories
shares one second run, which for a search in a video costs as much as the first."""
WHOLE_FRAME = {"read_text": None, "localize": ("change", "motion", "text")}
"""Operations whose missing box means the whole frame, for localize with these events."""


def replayed_claims(
    trajectory: Trajectory, tools: ToolBox, changed: Callable[[ToolCall], ToolCall]
) -> list[Claim | None]:
    """Per step; a zoom is not run again, and neither is what failed the first time."""
    workspace = Workspace(trajectory.sample.media)
    steps: list[Step] = []
    named: dict[int, Mask] = {}
    for step in trajectory.steps:
        steps.append(_again(step, tools, workspace, changed))
        named |= named_masks(step)
        # Masks keep the indexes that later calls name them by.
        workspace.masks += [named[i] for i in range(len(workspace.masks), len(named))]
        del workspace.masks[len(named) :]
    return claims(replace(trajectory, steps=steps), named=named)


def _again(
    step: Step, tools: ToolBox, workspace: Workspace, changed: Callable[[ToolCall], ToolCall]
) -> Step:
    if step.call is None or step.observation is None or step.observation.error is not None:
        return Step(step.start, step.end)
    if step.call.operation == "zoom":
        return step
    call = changed(step.call)
    return Step(step.start, step.end, call, tools.run(call, workspace))


def jittered(call: ToolCall, rng: np.random.Generator, *, box_share: float, point: int) -> ToolCall:
    """The call with its box's edges and its point moved at random."""
    arguments = dict(call.arguments)
    if "box" in arguments:
        arguments["box"] = moved_box(arguments["box"], rng, box_share)
    elif asks_for_whole_frame(call):
        arguments["box"] = list(NEARLY_WHOLE)
    if "point" in arguments:
        moved = np.array(arguments["point"]) + rng.integers(-point, point + 1, 2)
        arguments["point"] = moved.clip(0, MAX_COORDINATE).tolist()
    return ToolCall(call.operation, arguments)


def asks_for_whole_frame(call: ToolCall) -> bool:
    if call.operation not in WHOLE_FRAME or "box" in call.arguments:
        return False
    events = WHOLE_FRAME[call.operation]
    return events is None or call.arguments["event"] in events


def moved_box(box: list[int], rng: np.random.Generator, share: float) -> list[int]:
    """Each edge moved by up to `share` of the side and by at least 1; never turned inside out."""
    x0, y0, x1, y1 = box
    reach = np.maximum(1.0, share * np.array([x1 - x0, y1 - y0] * 2))
    moved: list[Any] = (np.array(box) + rng.uniform(-1, 1, 4) * reach).round().astype(int).tolist()
    x0, y0, x1, y1 = np.clip(moved, 0, MAX_COORDINATE).tolist()
    x0, y0 = min(x0, MAX_COORDINATE - 1), min(y0, MAX_COORDINATE - 1)
    return [x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)]
