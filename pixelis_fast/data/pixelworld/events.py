"""The three events of a video that `localize` asks for.

Shapes: T = frames; H, W = frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pixelis_fast.data.pixelworld.canvas import units
from pixelis_fast.data.pixelworld.clip import seen, still_frames, video_side
from pixelis_fast.data.pixelworld.config import Brief
from pixelis_fast.data.pixelworld.stage import new_stage
from pixelis_fast.data.pixelworld.task import Plan, WorldObject
from pixelis_fast.data.pixelworld.turns import localize_turn, widened, zoom_turn
from pixelis_fast.data.pixelworld.words import wording
from pixelis_fast.types import Span

LIGHTS = ((0.5, 0.7), (1.15, 1.4))
"""Brightness of the scenes before and after a cut, in either order."""
SWING_SHARE = (0.4, 0.7)
"""How far a thing moves from its place, of its diameter: part of it stays where it was."""
SPEED_SHARE = (0.2, 0.45)
"""Of that way, per frame."""


@dataclass(frozen=True)
class Event:
    """What happens in a video, when, and how it is found."""

    frames_THWC: np.ndarray
    objects: list[WorldObject]
    span: Span
    question: str
    plans: tuple[Plan, ...]


def appearance(brief: Brief, count: int, number: int) -> Event:
    """Something that is there from a frame on."""
    stage = new_stage(brief, video_side(brief), brief.whole(2, 4))
    new, *rest = stage.looks
    thing = stage.place(new)
    others = stage.stand(rest, _span(brief, 0, count))
    frames_THWC = still_frames(stage.canvas.image_HWC, count)
    boxes = [thing.put(frame_HWC) for frame_HWC in frames_THWC[number:]]
    span, box = _span(brief, number, count), units(boxes[0], stage.side)
    # Any frame that shows it will do; the last one always does.
    time_s = (count - 1) / brief.config.fps
    find = localize_turn(
        f"i find when the {new.name} appears", "appearance", span, box=box, time_s=time_s
    )
    look = zoom_turn(brief, f"i look at the {new.name}", box, time_s=time_s)
    objects = [seen("marker", new, box, span), *others]
    question = wording(brief, "localize_appearance", x=new.name)
    return Event(frames_THWC, objects, span, question, ((find,), (look, find)))


def motion(brief: Brief, count: int, number: int) -> Event:
    """Something that stands still up to a frame and swings from it to the end."""
    stage = new_stage(brief, video_side(brief), brief.whole(2, 4))
    mover, *rest = stage.looks
    reach = mover.diameter_px * brief.real(*SWING_SHARE)
    along = (1.0, 0.0) if brief.chance(0.5) else (0.0, 1.0)
    thing, whole = stage.place(mover, room=reach), _span(brief, 0, count)
    others = stage.stand(rest, whole)
    frames_THWC = still_frames(stage.canvas.image_HWC, count)
    speed = brief.real(*SPEED_SHARE) * reach * (1 if brief.chance(0.5) else -1)
    boxes = []
    for t, frame_HWC in enumerate(frames_THWC):
        off = _swing(max(t - number, 0) * speed, reach)
        boxes.append(thing.put(frame_HWC, (along[0] * off, along[1] * off)))
    span, box = _span(brief, number, count), units(boxes[0], stage.side)
    find = localize_turn(
        f"i find when the {mover.name} moves", "motion", span, box=widened(brief, box, (0.05, 0.25))
    )
    look = zoom_turn(brief, f"i look at the {mover.name}", box, time_s=0.0)
    objects = [seen("marker", mover, box, whole), *others]
    question = wording(brief, "localize_motion", x=mover.name)
    return Event(frames_THWC, objects, span, question, ((find,), (look, find)))


def _swing(way: float, reach: float) -> float:
    """Where something is that went so far, turning back `reach` from its place on either side."""
    phase = (way + reach) % (4 * reach)
    return phase - reach if phase <= 2 * reach else 3 * reach - phase


def change(brief: Brief, count: int, number: int) -> Event:
    """Another place from one frame to the next; `number` is the last of the old one."""
    side = video_side(brief)
    halves, objects = [], []
    spans = _span(brief, 0, number + 1), _span(brief, number + 1, count)
    for (low, high), seen_s in zip(
        LIGHTS if brief.chance(0.5) else LIGHTS[::-1], spans, strict=True
    ):
        stage = new_stage(brief, side, brief.whole(1, 3), light=brief.real(low, high))
        objects += stage.stand(stage.looks, seen_s)
        halves.append(stage.canvas.image_HWC)
    old = still_frames(halves[0], number + 1)
    new = still_frames(halves[1], count - number - 1)
    span = number / brief.config.fps, (number + 1) / brief.config.fps
    find = localize_turn("i find when the scene changes", "change", span)
    look = zoom_turn(brief, "i look at the scene", (0, 0, 1000, 1000), time_s=0.0)
    return Event(
        np.concatenate([old, new]),
        objects,
        span,
        wording(brief, "localize_change"),
        ((find,), (look, find)),
    )


def _span(brief: Brief, first: int, stop: int) -> Span:
    """Seconds from the start of one frame to the start of another."""
    return first / brief.config.fps, stop / brief.config.fps
