"""localize: at which second does something appear, start to move, or change altogether.

An event starts where the tool says it does: a cut and a motion with the last frame before anything
differs, an appearance with the first frame that shows it. A frame is a tenth of a second.
"""

from __future__ import annotations

from pixelis_fast.data.pixelworld.clip import num_frames
from pixelis_fast.data.pixelworld.config import Brief
from pixelis_fast.data.pixelworld.events import appearance, change, motion
from pixelis_fast.data.pixelworld.task import Task, finished
from pixelis_fast.types import AnswerKind, Evidence

EDGE = 5
"""Frames before and after an event, at least."""
EVENTS = (appearance, motion, change)


def localize_task(brief: Brief) -> Task:
    count = num_frames(brief)
    number = brief.whole(EDGE, count - 1 - EDGE)
    event = EVENTS[brief.whole(0, len(EVENTS) - 1)](brief, count, number)
    start_s, end_s = event.span
    return finished(
        brief,
        event.frames_THWC,
        event.objects,
        question=event.question,
        answer=f"{start_s:.1f}",
        answer_kind=AnswerKind.NUMBER,
        evidence=(Evidence("localize", span=(start_s, end_s)),),
        plans=event.plans,
        difficulty=count / (brief.config.video_s[1] * brief.config.fps),
    )
