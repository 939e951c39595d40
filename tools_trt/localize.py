"""The localize tool: when does something happen in a video.

Events: "change" (cuts and fades), "motion" (spans that move), "appearance" (spans that show the
look of a pointed-at region), "text" (spans whose text contains a query). Every answer is spans in
seconds, best first, and the frame that shows the event best. Same call, same answer.

Shapes: T = sampled frames.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pixelis_fast.tools_trt.geometry import box_to_px, check_box, shown
from pixelis_fast.tools_trt.localize_change import MAX_SAMPLES, change_spans
from pixelis_fast.tools_trt.localize_frames import SmallFrames, evenly, with_next
from pixelis_fast.tools_trt.localize_scores import (
    EmbeddedLookScore,
    FrameEmbedder,
    LookScore,
    MotionScore,
    TextScore,
)
from pixelis_fast.tools_trt.localize_spans import (
    FrameScore,
    median_of_three,
    ranked,
    refine_run,
    runs_above,
)
from pixelis_fast.tools_trt.results import (
    Box,
    LocalizeResult,
    ReadTextResult,
    ScoredSpan,
    ToolError,
    ToolInputError,
)
from pixelis_fast.tools_trt.store import MediaStore
from pixelis_fast.tools_trt.timing import StageClock

EVENTS = ("change", "motion", "appearance", "text")
MAX_SPANS = 8
"""More would only fill the policy's context."""
SHORT_GAP = 16
"""Frames that cost less to decode in one pass than to seek one by one."""
KEPT_VIDEOS = 4
"""Videos whose small frames are kept for the next search."""
PAUSE_S = 0.25
"""Motion that pauses for less is one motion."""
LOOK_THRESHOLDS = (0.4, 0.55, 0.7)
"""Least, usual and largest correlation above which a look is present."""
TWO_KINDS = 0.15
"""Mean correlations of two kinds of frames differ at least by this."""
TEXT_THRESHOLD = 0.75
"""One wrong letter in four."""
QUIET_MOTION = 0.15
"""Grey levels of mean motion below which a video stands still."""
MOTION_SHARE = 0.25
"""Motion begins at this share of the way from the quiet level to the lively one."""
MIN_CONTRAST = 0.02
"""Cosines that vary less than this tell no frame from another: the look is everywhere."""
TEMPLATES_ONLY = "no embedder: looks are compared by colour and edges"


class ReadTextTool(Protocol):
    """The read_text tool, or anything called like it."""

    def __call__(
        self, media_id: str, box: Sequence[int] | None = None, *, time_s: float | None = None
    ) -> ReadTextResult: ...


@dataclass(frozen=True)
class Search:
    """How one event is looked for."""

    engine: str
    score: FrameScore
    threshold: Callable[[np.ndarray], float]
    """Of the sampled scores."""
    max_samples: int
    degraded: str | None = None
    smooth: bool = False
    """Lone samples do not count: motion has noise, likeness has none."""
    certain: tuple[int, ...] = ()
    """Frames to sample in any case."""


class Localize:
    """Finds the spans of an event.

    Example:
        localize = Localize(store, read_text=ReadText(store))
        spans = localize(clip.id, "text", query="EXIT").spans
    """

    def __init__(
        self,
        store: MediaStore,
        read_text: ReadTextTool | None = None,
        embedder: FrameEmbedder | None = None,
    ) -> None:
        self.store = store
        self.read_text = read_text
        self.embedder = embedder
        self._frames: OrderedDict[tuple[str, Box | None], SmallFrames] = OrderedDict()

    def __call__(
        self,
        media_id: str,
        event: str,
        *,
        box: Sequence[int] | None = None,
        time_s: float | None = None,
        query: str | None = None,
    ) -> LocalizeResult:
        clock = StageClock()
        with clock.stage("pre"):
            region = check_box(box) if box is not None else None
            self._check(media_id, event, box=region, time_s=time_s, query=query)
            frames = self._small_frames(media_id, None if event == "appearance" else region)
            numbers = evenly(frames.num_frames, MAX_SAMPLES)
            if event in ("change", "motion"):
                frames(with_next(numbers, frames) if event == "motion" else numbers)
        with clock.stage("run"):
            if event == "change":
                engine, degraded = "classical:histogram+difference", None
                found = [(span, span.end_s) for span in change_spans(frames, numbers)]
            else:
                search = self._search(frames, event, region, time_s, query)
                engine, degraded = search.engine, search.degraded
                found = _spans(frames, search)
        with clock.stage("post"):
            spans = ranked([span for span, _ in found])[:MAX_SPANS]
            keyframes = dict(found)
        return LocalizeResult(
            engine=engine,
            degraded=degraded,
            stage_ms=clock.stage_ms(),
            spans=spans,
            keyframe_s=keyframes[spans[0]] if spans else None,
        )

    def _check(
        self,
        media_id: str,
        event: str,
        *,
        box: Box | None,
        time_s: float | None,
        query: str | None,
    ) -> None:
        if not isinstance(event, str) or event not in EVENTS:
            raise ToolInputError(f"event: expected one of {', '.join(EVENTS)}, got {shown(event)}")
        if self.store.info(media_id).kind != "video":
            raise ToolInputError("localize: expected a video, got an image")
        if event == "appearance" and (box is None or time_s is None):
            raise ToolInputError(f"appearance: expected a box and a time, got {box} and {time_s}")
        if event != "appearance" and time_s is not None:
            raise ToolInputError(f"time: expected none for {event}, got {shown(time_s)}")
        if event == "text" and not (isinstance(query, str) and query.strip()):
            raise ToolInputError(f"query: expected the text to find, got {shown(query)}")
        if event != "text" and query is not None:
            raise ToolInputError(f"query: expected none for {event}, got {shown(query)}")
        if event == "text" and self.read_text is None:
            raise ToolError("localize: the text event needs a read_text tool, got none")

    def _small_frames(self, media_id: str, box: Box | None) -> SmallFrames:
        key = (media_id, box)
        frames = self._frames.pop(key, None) or SmallFrames(self.store, media_id, box)
        self._frames[key] = frames
        while len(self._frames) > KEPT_VIDEOS:
            self._frames.popitem(last=False)
        return frames

    def _search(
        self,
        frames: SmallFrames,
        event: str,
        box: Box | None,
        time_s: float | None,
        query: str | None,
    ) -> Search:
        if event == "motion":
            score = MotionScore(frames)
            return Search(
                "classical:difference", score, _motion_threshold, MAX_SAMPLES, smooth=True
            )
        if event == "text":
            return self._text_search(frames, box, query or "")
        return self._look_search(frames, box, time_s)

    def _text_search(self, frames: SmallFrames, box: Box | None, query: str) -> Search:
        read_text = self.read_text
        assert read_text is not None, "checked with the call"
        first = read_text(frames.media_id, box, time_s=0.0)

        def read(time_s: float) -> list[str]:
            at = first if time_s == 0.0 else read_text(frames.media_id, box, time_s=time_s)
            return [line.text for line in at.lines]

        score = TextScore(frames, query, read)
        return Search(first.engine, score, lambda _: TEXT_THRESHOLD, 24, first.degraded)

    def _look_search(self, frames: SmallFrames, box: Box | None, time_s: float | None) -> Search:
        assert box is not None, "checked with the call"
        assert time_s is not None, "checked with the call"
        info = self.store.info(frames.media_id)
        # The store checks the time; its frame is the one every score compares with.
        self.store.pixels_id(frames.media_id, time_s)
        number = frames.index.nearest(time_s)
        box_px = box_to_px(box, info.width, info.height)
        if self.embedder is None:
            look = LookScore(frames, number=number, box_px=box_px)
            name = "classical:template"
            return Search(name, look, _look_threshold, 64, TEMPLATES_ONLY, certain=(number,))
        near = EmbeddedLookScore(frames, self.embedder, number=number, box_px=box_px)
        return Search("embedding:cosine", near, _cosine_threshold, 32, certain=(number,))


def _spans(frames: SmallFrames, search: Search) -> list[tuple[ScoredSpan, float]]:
    """(span, time of its best sample) of each stretch above the threshold."""
    numbers = sorted({*evenly(frames.num_frames, search.max_samples), *search.certain})
    scores_T = search.score(numbers)
    curve_T = median_of_three(scores_T) if search.smooth else scores_T
    threshold = search.threshold(curve_T)
    top = max(float(curve_T.max()), 1e-9)
    found = []
    spacing_s = frames.index.duration_s / len(numbers)
    max_gap = max(1, round(PAUSE_S / spacing_s)) if search.smooth else 1
    for run in runs_above(curve_T, threshold, max_gap=max_gap):
        for edge in (run[0], run[1] + 1):
            _decode_gap(frames, numbers, edge)
        first, last = refine_run(run, numbers, search.score, threshold)
        inside = curve_T[run[0] : run[1] + 1]
        # Motion has no unit of its own; likeness is 0..1 already.
        score = float(inside.mean()) / (top if search.smooth else 1.0)
        span = ScoredSpan(frames.time_s(first), frames.time_s(last + 1), round(score, 4))
        found.append((span, frames.time_s(numbers[run[0] + int(inside.argmax())])))
    return found


def _decode_gap(frames: SmallFrames, numbers: list[int], edge: int) -> None:
    """Decodes a short gap before a sample in one pass, where bisection would seek each frame."""
    if 0 < edge < len(numbers) and numbers[edge] - numbers[edge - 1] <= SHORT_GAP:
        frames(range(numbers[edge - 1], numbers[edge] + 1))


def _look_threshold(curve_T: np.ndarray) -> float:
    """Between the two kinds of frames (Otsu's split), where there are two; else the usual value."""
    least, usual, largest = LOOK_THRESHOLDS
    ordered = np.sort(curve_T)
    splits = range(1, len(ordered))
    means = [(ordered[:n].mean(), ordered[n:].mean()) for n in splits]
    between = [
        n * (len(ordered) - n) * (high - low) ** 2
        for n, (low, high) in zip(splits, means, strict=True)
    ]
    if not between:
        return usual
    best = int(np.argmax(between))
    low, high = means[best]
    middle = float(low + high) / 2
    return min(max(middle, least), largest) if high - low >= TWO_KINDS else usual


def _motion_threshold(curve_T: np.ndarray) -> float:
    quiet, lively = np.percentile(curve_T, (10, 95))
    if curve_T.max() < QUIET_MOTION:
        return float("inf")
    return max(QUIET_MOTION, float(quiet + MOTION_SHARE * (lively - quiet)))


def _cosine_threshold(curve_T: np.ndarray) -> float:
    low, high = float(curve_T.min()), float(curve_T.max())
    return low if high - low < MIN_CONTRAST else (low + high) / 2
