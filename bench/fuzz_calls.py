"""Calls with right, wrong and absurd arguments, drawn from a seed, and what a sound answer is.

An answer is sound when it is a ToolError whose message says what was expected, or a result that
lies inside its frame and its video.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pixelis_fast.tools_trt.pixels.media import MediaInfo
from pixelis_fast.tools_trt.results import (
    LocalizeResult,
    PropertiesResult,
    ReadTextResult,
    SegmentResult,
    ToolError,
    ToolInputError,
    ToolResult,
    TrackResult,
    ZoomResult,
)
from pixelis_fast.tools_trt.rle import decode_mask, encode_mask

ABSURD: tuple[Any, ...] = (
    None, "", "abc", b"\x00", True, -1, 0, 1, 1.5, -0.0, 10**9, 10**400, 1e308, math.nan, math.inf,
    -math.inf, [], {}, [None], "1.0", "\ud800", (1, 2), [[1, 2], [3, 4]], object(), {1, 2},
    np.float32(3), np.zeros(4), np.nan, 1j, range(4), lambda: 0,
)  # fmt: skip
TOOLS = ("zoom", "segment", "track", "read_text", "localize", "properties")
STILL_TOOLS = ("zoom", "segment", "read_text", "properties")


@dataclass(frozen=True)
class FuzzedCall:
    """One call of one tool.

    Example:
        FuzzedCall("zoom", ("3f…", (0, 0, 500, math.nan)), {"time_s": None})
    """

    tool: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]


class CallMaker:
    """Draws calls on one medium; `oddness` is the share of arguments that are wrong."""

    def __init__(self, rng: random.Random, info: MediaInfo, *, oddness: float) -> None:
        self._rng, self._info, self._oddness = rng, info, oddness

    def draw(self) -> FuzzedCall:
        # A picture is now and then offered to a tool for videos.
        fitting = TOOLS if self._info.kind == "video" else STILL_TOOLS
        tool = self._or_odd(self._rng.choice(fitting), TOOLS, share=0.05)
        arguments, options = getattr(self, f"_{tool}")()
        media_id = self._or_odd(self._info.id, (self._info.id[:-1], *ABSURD), share=0.1)
        return FuzzedCall(tool, (media_id, *arguments), options)

    def _zoom(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        options = {"time_s": self._time()}
        if self._rng.random() < 0.2:
            options["max_side"] = self._or_odd(600, (10**6, 2**31, -5, *ABSURD))
        return (self._box(),), options

    def _segment(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        prompt = {"box": self._box()} if self._rng.random() < 0.5 else {"point": self._point()}
        both = {"box": self._box(), "point": self._point()}
        return (), {**self._or_odd(prompt, ({}, both)), "time_s": self._time()}

    def _track(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        start, end = sorted((self._rng.random(), self._rng.random()))
        span = (start * self._info.duration_s, end * self._info.duration_s)
        start_s, end_s = self._or_odd(span, (span[::-1], (-1.0, 1.0), (0.0, 1e9)))
        options = {"start_s": self._or_odd(start_s, ABSURD), "end_s": self._or_odd(end_s, ABSURD)}
        if self._rng.random() < 0.3:
            options["max_frames"] = self._or_odd(3, (-2, 10**6, *ABSURD))
        return (self._box(),), options

    def _read_text(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (self._rng.choice((None, self._box())),), {"time_s": self._time()}

    def _localize(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        event = self._rng.choice(("change", "motion", "appearance", "text"))
        options: dict[str, Any] = {}
        if event == "appearance" or self._rng.random() < 0.3:
            options["box"] = self._box()
        if event == "appearance":
            options["time_s"] = self._time()
        if event == "text":
            options["query"] = self._or_odd("exit", (" ", "x" * 10_000, *ABSURD))
        return (self._or_odd(event, ABSURD),), options

    def _properties(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (self._mask(),), {"time_s": self._time()}

    def _box(self) -> Any:
        x0, x1 = sorted(self._rng.sample(range(1001), 2))
        y0, y1 = sorted(self._rng.sample(range(1001), 2))
        box = (x0, y0, x1, y1)
        reversed_box, sliver = (x1, y1, x0, y0), (x0, y0, x0 + 1, 1000)
        return self._or_odd(
            box, (reversed_box, sliver, (-x1, y0, x1, y1), box[:3], *ABSURD), item=box
        )

    def _point(self) -> Any:
        point = (self._rng.randrange(1001), self._rng.randrange(1001))
        return self._or_odd(point, ((1001, 0), (0, -1), (5,), *ABSURD), item=point)

    def _time(self) -> Any:
        is_video = self._info.kind == "video"
        time_s = self._rng.random() * self._info.duration_s if is_video else None
        outside = (self._info.duration_s + 0.5, -0.01, None if is_video else 0.0)
        return self._or_odd(time_s, (*outside, *ABSURD))

    def _mask(self) -> Any:
        height, width = self._info.height, self._info.width
        mask_hw = np.zeros((height, width), bool)
        mask_hw[: max(height // 2, 1), : max(width // 3, 1)] = True
        mask = encode_mask(mask_hw)
        counts = mask["counts"]
        wrong = (
            {**mask, "counts": counts[:-1]},
            {**mask, "counts": counts + "0"},
            {**mask, "counts": "\u00e9" + counts},
            {**mask, "counts": self._rng.choice(ABSURD)},
            {**mask, "size": [width, height + 1]},
            {**mask, "size": self._rng.choice(ABSURD)},
            {"counts": counts},
            encode_mask(np.zeros((height, width), bool)),
        )
        return self._or_odd(mask, (*wrong, *ABSURD))

    def _or_odd(
        self, value: Any, odd: Sequence[Any], *, share: float | None = None, item: Any = None
    ) -> Any:
        if self._rng.random() >= (self._oddness if share is None else share):
            return value
        if item is not None and self._rng.random() < 0.4:
            place = self._rng.randrange(len(item))
            return [*item[:place], self._rng.choice(ABSURD), *item[place + 1 :]]
        return self._rng.choice(odd)


def fault_of(outcome: Any, info: MediaInfo) -> str | None:
    """What is wrong with an answer; None when it is sound."""
    if isinstance(outcome, ToolInputError):
        return None if "expected" in str(outcome) else f"message: {outcome}"
    if isinstance(outcome, ToolError):
        return None
    if isinstance(outcome, BaseException):
        return f"{type(outcome).__name__}: {outcome}"
    return FAULTS[type(outcome)](outcome, info)


def _box_fault(box: Sequence[int]) -> str | None:
    x0, y0, x1, y1 = box
    is_inside = 0 <= x0 < x1 <= 1000 and 0 <= y0 < y1 <= 1000
    return None if is_inside and all(isinstance(v, int) for v in box) else f"box {box}"


def _mask_fault(mask: Any, info: MediaInfo) -> str | None:
    mask_HW = decode_mask(mask)
    if mask_HW.shape != (info.height, info.width) or not mask_HW.any():
        return f"mask of {mask_HW.shape}, {int(mask_HW.sum())} pixels"
    return None


def _zoom_fault(result: ZoomResult, info: MediaInfo) -> str | None:
    (scale_x, _, left), (_, scale_y, top) = result.affine
    right, bottom = left + scale_x * result.width, top + scale_y * result.height
    if min(left, top) < 0 or right > info.width + 1e-6 or bottom > info.height + 1e-6:
        return f"affine {result.affine} leaves {info.width}x{info.height}"
    return _box_fault(result.box)


def _segment_fault(result: SegmentResult, info: MediaInfo) -> str | None:
    if not (0 < result.area_permille <= 1000 and math.isfinite(result.score)):
        return f"area {result.area_permille}, score {result.score}"
    return _box_fault(result.box) or _mask_fault(result.mask, info)


def _track_fault(result: TrackResult, info: MediaInfo) -> str | None:
    times_s = result.times_s
    if list(times_s) != sorted(times_s) or not 0 <= times_s[0] <= times_s[-1] <= info.duration_s:
        return f"times {times_s}"
    faults = [_box_fault(box) for box in result.boxes if box is not None]
    faults += [_mask_fault(mask, info) for mask in result.masks if mask is not None]
    return next((fault for fault in faults if fault), None)


def _text_fault(result: ReadTextResult, info: MediaInfo) -> str | None:
    faults = [_box_fault(line.box) for line in result.lines]
    scores = [line.score for line in result.lines]
    faults += [f"score {score}" for score in scores if not 0 <= score <= 1]
    return next((fault for fault in faults if fault), None)


def _spans_fault(result: LocalizeResult, info: MediaInfo) -> str | None:
    for span in result.spans:
        if not 0 <= span.start_s <= span.end_s <= info.duration_s + 1e-9:
            return f"span {span}"
    return None


def _properties_fault(result: PropertiesResult, info: MediaInfo) -> str | None:
    numbers = (result.area_permille, result.orientation_deg, result.elongation)
    if not all(map(math.isfinite, numbers)) or not 0 < result.area_px <= info.width * info.height:
        return f"numbers {numbers}, area {result.area_px}"
    return _box_fault(result.box)


FAULTS: dict[type[ToolResult], Callable[[Any, MediaInfo], str | None]] = {
    ZoomResult: _zoom_fault,
    SegmentResult: _segment_fault,
    TrackResult: _track_fault,
    ReadTextResult: _text_fault,
    LocalizeResult: _spans_fault,
    PropertiesResult: _properties_fault,
}
