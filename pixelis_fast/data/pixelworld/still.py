"""A finished picture as a task."""

from __future__ import annotations

from pixelis_fast.data.pixelworld.canvas import Canvas
from pixelis_fast.data.pixelworld.task import Plan, Task
from pixelis_fast.types import AnswerKind, Evidence


def still_task(
    canvas: Canvas,
    *,
    question: str,
    answer: str,
    answer_kind: AnswerKind,
    evidence: tuple[Evidence, ...],
    plans: tuple[Plan, ...],
    difficulty: float,
) -> Task:
    brief = canvas.brief
    return Task(
        id=brief.id,
        family=brief.family,
        split=brief.split,
        difficulty=min(max(difficulty, 0.0), 1.0),
        question=question,
        answer=answer,
        answer_kind=answer_kind,
        frames=canvas.image_HWC[None],
        fps=0.0,
        evidence=evidence,
        plans=plans,
        objects=tuple(canvas.objects),
    )
