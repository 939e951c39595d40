"""track: three identical balls swap places; where does the one that starts at a place end.

Twice two neighbours go around each other, half a turn or a quarter and back, either way round: the
first and last frame and single ones between them do not tell which ball is which.

Shapes: B = balls; T = frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from pixelis_fast.data.pixelworld.backgrounds import background
from pixelis_fast.data.pixelworld.canvas import Look, units
from pixelis_fast.data.pixelworld.clip import (
    num_frames,
    seen,
    sprite,
    still_frames,
    video_side,
)
from pixelis_fast.data.pixelworld.config import Brief
from pixelis_fast.data.pixelworld.task import Plan, Task, finished
from pixelis_fast.data.pixelworld.turns import localize_turn, track_turn, zoom_turn
from pixelis_fast.data.pixelworld.words import COLORS, wording
from pixelis_fast.types import AnswerKind, Box, Evidence

PLACES = {
    True: (("left", "on the left"), ("middle", "in the middle"), ("right", "on the right")),
    False: (("top", "at the top"), ("middle", "in the middle"), ("bottom", "at the bottom")),
}
"""Across and down: answer word, words in the question."""
SLOTS = (0.17, 0.5, 0.83)
BALL_SHARE = (0.085, 0.1)


def track_task(brief: Brief) -> Task:
    side, count = video_side(brief), num_frames(brief)
    look = Look("disk", list(COLORS)[brief.whole(0, 5)], brief.real(*BALL_SHARE) * side, depth=0.35)
    ball = sprite(brief, look, striped=True)
    across = brief.chance(0.5)
    wanted = brief.whole(0, 2)
    phases = _phases(brief, wanted)
    end = _slots(phases)[wanted]
    paths_BT2 = _paths(brief, phases, count)[..., :: 1 if across else -1] * side
    frames_THWC = still_frames(background(brief, side), count)
    boxes = [
        [units(ball.put(frames_THWC[t], tuple(paths_BT2[b, t])), side) for t in range(count)]
        for b in range(3)
    ]
    places = PLACES[across]
    last_s = (count - 1) / brief.config.fps
    objects = [seen("ball", look, each[0], (0.0, last_s)) for each in boxes]
    return finished(
        brief,
        frames_THWC,
        objects,
        question=wording(brief, "track", at=places[wanted][1]),
        answer=places[end][0],
        answer_kind=AnswerKind.EXACT,
        evidence=(Evidence("track", box=boxes[wanted][-1], span=(0.0, last_s), time_s=last_s),),
        plans=_plans(brief, boxes[wanted], places[wanted][1]),
        difficulty=sum(phase.is_swap for phase in phases) / len(phases),
    )


def _plans(brief: Brief, boxes: list[Box], place: str) -> tuple[Plan, ...]:
    fps = brief.config.fps
    middle, last = len(boxes) // 2, len(boxes) - 1
    middle_s, last_s = middle / fps, last / fps
    follow = track_turn(brief, f"i follow the ball {place}", boxes[0], (0.0, last_s))
    look = zoom_turn(brief, f"i look at the ball {place}", boxes[0], time_s=0.0)
    first = track_turn(brief, f"i follow the ball {place}", boxes[0], (0.0, middle_s))
    then = track_turn(brief, "i follow it to the end", boxes[middle], (middle_s, last_s))
    moves = localize_turn("i find when the motion starts", "motion", (0.0, last_s))
    return (follow,), (look, follow), (first, then), (moves, look, follow)


@dataclass(frozen=True)
class Phase:
    """Two neighbours go around each other."""

    low: int
    """Slot of the first of them."""
    is_swap: bool
    """Half a turn; else a quarter and back, which looks the same in single frames."""


def _phases(brief: Brief, start: int) -> list[Phase]:
    """Two phases after which the ball of a slot is equally often at each of the three."""
    lows = {0: (0, 1), 2: (1, 0)}.get(start, (0, 1) if brief.chance(0.5) else (1, 0))
    end = brief.whole(0, 2)
    choices = [
        [Phase(low, kind) for low, kind in zip(lows, kinds, strict=True)]
        for kinds in product((True, False), repeat=2)
    ]
    fitting = [phases for phases in choices if _slots(phases)[start] == end]
    return fitting[brief.whole(0, len(fitting) - 1)]


def _slots(phases: list[Phase]) -> list[int]:
    """Slot where the ball of each slot ends."""
    slots = [0, 1, 2]
    for phase in phases:
        if phase.is_swap:
            swapped = {phase.low: phase.low + 1, phase.low + 1: phase.low}
            slots = [swapped.get(slot, slot) for slot in slots]
    return slots


def _paths(brief: Brief, phases: list[Phase], count: int) -> np.ndarray:
    """(3, T, 2): centres in 0..1 of the ball of each slot."""
    across = brief.real(0.35, 0.65)
    length = (count - 2) // len(phases)
    first = brief.whole(0, count - 1 - len(phases) * length)
    centres_BT2 = np.array([[[slot, across]] for slot in SLOTS]).repeat(count, axis=1)
    for number, phase in enumerate(phases):
        slots = _slots(phases[:number])
        pair = [slots.index(phase.low + n) for n in (0, 1)]
        start = first + number * length
        for ball, way_T2 in zip(pair, _around(brief, phase, length), strict=True):
            centres_BT2[ball, start : start + length + 1] = way_T2 + np.array([0, across])
            centres_BT2[ball, start + length :] = centres_BT2[ball, start + length]
    return centres_BT2


def _around(brief: Brief, phase: Phase, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Both balls' (T, 2) way around the point between their slots."""
    low, high = SLOTS[phase.low], SLOTS[phase.low + 1]
    radius = (high - low) / 2
    swing = brief.real(0.95, 1.2) * radius * (1 if brief.chance(0.5) else -1)
    share_T = np.linspace(0, 1, frames + 1)
    angle_T = np.pi * (share_T if phase.is_swap else np.minimum(share_T, 1 - share_T))
    off_T2 = np.stack([radius * np.cos(angle_T), swing * np.sin(angle_T)], axis=1)
    middle = np.array([(low + high) / 2, 0.0])
    return middle - off_T2, middle + off_T2
