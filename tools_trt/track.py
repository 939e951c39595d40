"""The track tool: an object's box at one time -> boxes, masks and scores through a time span.

Visits at most `max_frames` frames, evenly spaced, the first at `start_s`. Checks the call and
describes masks in 0..1000 units; following the object is the engine's work.

Shapes: H, W = frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral, Real
from typing import Protocol

import numpy as np

from pixelis_fast.tools_trt.classical.grabcut import mask_box
from pixelis_fast.tools_trt.geometry import box_to_px, px_to_box, shown
from pixelis_fast.tools_trt.pixels.ahead import ahead
from pixelis_fast.tools_trt.results import ToolInputError, TrackResult
from pixelis_fast.tools_trt.rle import encode_mask
from pixelis_fast.tools_trt.store import MediaStore
from pixelis_fast.tools_trt.timing import StageClock

DECODE_AHEAD = 4
"""Frames that may wait, decoded, while the engine works on an earlier one."""

Found = tuple[np.ndarray | None, float]
"""(mask_HW of bool, or None where the object is lost; score 0..1)."""


class TrackEngine(Protocol):
    """What follows an object from the first frame's box."""

    @property
    def name(self) -> str: ...

    @property
    def degraded(self) -> str | None:
        """Why the engine is second best; None when it is not."""

    def track(
        self,
        frames: Iterable[np.ndarray],
        box_px: tuple[int, int, int, int],
        *,
        keys: Sequence[str],
    ) -> Iterator[Found]:
        """One entry per frame; equal keys promise equal pixels."""


class Track:
    """Follows an object through a video.

    Example:
        track = Track(store, ClassicalTrack())
        result = track(clip.id, (300, 200, 420, 500), start_s=0.0, end_s=2.0)
    """

    def __init__(self, store: MediaStore, engine: TrackEngine) -> None:
        self.store = store
        self.engine = engine

    def __call__(
        self,
        media_id: str,
        box: Sequence[int],
        *,
        start_s: float,
        end_s: float,
        max_frames: int = 16,
    ) -> TrackResult:
        clock = StageClock()
        with clock.stage("pre"):
            info = self.store.info(media_id)
            box_px = box_to_px(box, info.width, info.height)
            times_s = self._times(media_id, start_s, end_s, max_frames=max_frames)
            frames = ahead(self.store.stream(media_id, times_s), depth=DECODE_AHEAD)
            keys = [self.store.pixels_id(media_id, time_s) for time_s in times_s]
        with clock.stage("run"):
            found = list(self.engine.track(frames, box_px, keys=keys))
        with clock.stage("post"):
            size = info.width, info.height
            masks = [mask for mask, _ in found]
            boxes = tuple(m if m is None else px_to_box(mask_box(m), *size) for m in masks)
            encoded = tuple(m if m is None else encode_mask(m) for m in masks)
        return TrackResult(
            engine=self.engine.name,
            degraded=self.engine.degraded,
            stage_ms=clock.stage_ms(),
            times_s=times_s,
            boxes=boxes,
            masks=encoded,
            scores=tuple(score for _, score in found),
        )

    def _times(
        self, media_id: str, start_s: float, end_s: float, *, max_frames: int
    ) -> tuple[float, ...]:
        """Times of the frames to visit, each frame once."""
        if self.store.info(media_id).kind != "video":
            raise ToolInputError("track: expected a video, got an image")
        if not isinstance(max_frames, Integral) or max_frames < 2:
            raise ToolInputError(f"max_frames: expected at least 2, got {shown(max_frames)}")
        index = self.store.index(media_id)
        check_span(start_s, end_s, duration_s=index.duration_s)
        first, last = index.nearest(start_s), index.nearest(end_s)
        if first == last:
            raise ToolInputError(
                f"span: expected at least two frames, got one between {start_s} and {end_s} s"
            )
        count = min(max_frames, last - first + 1)
        steps = [first + round(n * (last - first) / (count - 1)) for n in range(count)]
        return tuple(index.times_s[number] for number in steps)


def check_span(start_s: float, end_s: float, *, duration_s: float) -> None:
    """ToolInputError unless 0 <= start < end <= duration."""
    # Not a number compares false, and what is no number at all cannot be compared.
    is_number = isinstance(start_s, Real) and isinstance(end_s, Real)
    if not is_number or not 0 <= start_s < end_s <= duration_s:
        raise ToolInputError(
            f"span: expected 0 <= start < end <= {duration_s:.3f} seconds, "
            f"got {shown(start_s)} to {shown(end_s)}"
        )
