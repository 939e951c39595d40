"""Short ways to write trajectories and neighbours for the vote's tests."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco

from bench.memory_experiences import MEDIA, experience
from pixelis_fast.memory import Neighbour, Outcome
from pixelis_fast.types import (
    Mask,
    Observation,
    RolloutStatus,
    Sample,
    Step,
    ToolCall,
    Trajectory,
)

SEEN = Observation("{}")
FAILED = Observation('{"error":"no"}', error="no")


def call(operation: str, **arguments) -> ToolCall:
    return ToolCall(operation, {"media": 0} | arguments)


def zoom(*box: int) -> ToolCall:
    return call("zoom", box=list(box))


def acted(
    answer: str | None, *calls: ToolCall | None, z=(1.0, 0.0), media=(MEDIA,), observed=SEEN, ids=()
) -> Trajectory:
    """One step per call (None: one that did not parse), then the answer; all embedded as `z`."""
    steps = [Step(0, 1, each, observed if each else FAILED, tuple(z)) for each in calls]
    steps.append(Step(0, 1, None, None, tuple(z)))
    return Trajectory(
        sample=Sample("s", media, "?"),
        policy_version="v",
        seed=0,
        ids=list(ids) or [7] * (1 + len(steps)),
        steps=steps,
        answer=answer,
        status=RolloutStatus.ANSWERED,
    )


def neighbour(trajectory: Trajectory, *, similarity: float = 1.0, success: float = 1.0):
    outcome = Outcome(trajectory.answer, 1.0, success)
    return Neighbour(experience(trajectory=trajectory, outcome=outcome), similarity)


def box_mask(x0: int, y0: int, x1: int, y1: int, *, media_id: str = MEDIA.id) -> Mask:
    """A filled box on a frame of 100 x 200 pixels."""
    pixels = np.zeros((100, 200), np.uint8, order="F")
    pixels[y0:y1, x0:x1] = 1
    return Mask(media_id, None, (100, 200), coco.encode(pixels)["counts"].decode())
