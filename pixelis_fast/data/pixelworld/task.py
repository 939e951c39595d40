"""What the generator hands out: one question about one picture or video, with all that is true.

Coordinates are integers 0..1000 of the frame, times are seconds. Shapes: T = frames; H, W = frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pixelis_fast.data.pixelworld.config import Brief
from pixelis_fast.types import AnswerKind, Box, Evidence, Span, ToolCall


@dataclass(frozen=True)
class Target:
    """What a call should point at, exactly: its arguments may lie a few units off."""

    box: Box | None = None
    span: Span | None = None


@dataclass(frozen=True)
class PlannedTurn:
    """A thought and the call it leads to.

    Example:
        PlannedTurn("i read the sign", ToolCall("read_text", {"media": 0, "box": [10, 20, 90, 50]}))
    """

    thought: str
    call: ToolCall
    target: Target = Target()


Plan = tuple[PlannedTurn, ...]


@dataclass(frozen=True)
class WorldObject:
    """One drawn thing."""

    kind: str
    """marker, sign, panel, glyph, dot or ball."""
    color: str
    shape: str
    box: Box
    """Of a video: where it is in the first frame it is seen in."""
    text: str | None = None
    span: Span | None = None
    """Seconds of a video during which it is seen; None for an image."""
    mask_rle: dict[str, Any] | None = None
    """COCO's, of what a question is about the size of; `counts` is text."""


@dataclass(frozen=True)
class Task:
    """A question with its pixels and its truth.

    Example:
        task = PixelWorld(PixelWorldConfig(seed=0)).task("train", 7)
    """

    id: str
    family: str
    split: str
    difficulty: float
    """0..1."""
    question: str
    answer: str
    answer_kind: AnswerKind
    frames: np.ndarray
    """(T, H, W, 3) of uint8; T == 1: an image."""
    fps: float
    """0 for an image."""
    evidence: tuple[Evidence, ...]
    plans: tuple[Plan, ...]
    """Chains of calls that lead to the answer; the first is the shortest."""
    objects: tuple[WorldObject, ...]

    @property
    def duration_s(self) -> float:
        return len(self.frames) / self.fps if self.fps else 0.0


def finished(
    brief: Brief,
    frames_THWC: np.ndarray,
    objects: Sequence[WorldObject],
    *,
    question: str,
    answer: str,
    answer_kind: AnswerKind,
    evidence: tuple[Evidence, ...],
    plans: tuple[Plan, ...],
    difficulty: float,
) -> Task:
    """The task of a brief: a picture's when there is one frame, else a video's."""
    return Task(
        id=brief.id,
        family=brief.family,
        split=brief.split,
        difficulty=min(max(difficulty, 0.0), 1.0),
        question=question,
        answer=answer,
        answer_kind=answer_kind,
        frames=frames_THWC,
        fps=float(brief.config.fps) if len(frames_THWC) > 1 else 0.0,
        evidence=evidence,
        plans=plans,
        objects=tuple(objects),
    )
