"""Hand-written trajectories for the rewards' tests: steps with calls, errors and embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pixelis_fast.types import (
    Media,
    MediaKind,
    Observation,
    RolloutStatus,
    Sample,
    Step,
    ToolCall,
    Trajectory,
)

STILL = Media("still", MediaKind.IMAGE, 64, 64)
VIDEO = Media("video", MediaKind.VIDEO, 64, 64, num_frames=16, duration_s=2.0)
ZOOM = ToolCall("zoom", {"media": 0, "box": [0, 0, 500, 500]})
READ = ToolCall("read_text", {"media": 0})
TRACK = ToolCall("track", {"media": 0, "box": [0, 0, 9, 9], "start": 0.0, "end": 1.0})
SIZE = 16
Embedding = tuple[float, ...]


def direction(cosine: float) -> Embedding:
    """A unit vector whose cosine with `direction(1.0)` is this."""
    return (cosine, (1 - cosine**2) ** 0.5, *[0.0] * (SIZE - 2))


def noise(seed: int) -> Embedding:
    return tuple(torch.randn(SIZE, generator=torch.Generator().manual_seed(seed)).tolist())


def valid(call: ToolCall = ZOOM, embedding: Embedding | None = None) -> Step:
    return Step(0, 1, call, Observation("{}"), embedding or direction(1.0))


def refused(call: ToolCall = ZOOM, embedding: Embedding | None = None) -> Step:
    """Its tool could not take it."""
    return Step(0, 1, call, Observation("{}", error="box: no"), embedding or direction(1.0))


def unparsed(embedding: Embedding | None = None) -> Step:
    return Step(0, 1, None, Observation("{}", error="expected JSON"), embedding or direction(1.0))


def chain(
    *steps: Step,
    answer: str | None = "7",
    media: Sequence[Media] = (STILL,),
    last: Embedding | None = None,
) -> Trajectory:
    """The steps, and the answer's turn where there is an answer."""
    sample = Sample("s", tuple(media), "how many?", "7")
    turns = list(steps)
    if answer is not None:
        turns.append(Step(0, 1, None, None, last or direction(0.5)))
    status = RolloutStatus.ANSWERED if answer else RolloutStatus.TRUNCATED_MAX_STEPS
    return Trajectory(sample, "v", 0, steps=turns, answer=answer, status=status)
