"""The six tools over one store, behind one memo and one scheduler.

What a call is worth waiting for, what makes two calls equal and which of them run together is said
here, for every tool in one place. Knows no policy and nothing of what it gets to read.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from pixelis_fast.tools_trt.call_stats import SchedulerStats
from pixelis_fast.tools_trt.localize import FrameEmbedder, Localize
from pixelis_fast.tools_trt.memo import Remembered, Tool
from pixelis_fast.tools_trt.pixels.tiers import TierStats, TierStore
from pixelis_fast.tools_trt.properties import Properties
from pixelis_fast.tools_trt.read_text import ReadText
from pixelis_fast.tools_trt.results import ToolError, ToolInputError
from pixelis_fast.tools_trt.scheduler import (
    Batch,
    Priority,
    Scheduler,
    SchedulerConfig,
    Ticket,
    Work,
)
from pixelis_fast.tools_trt.segment import PromptsEngine, Segment, SegmentEngine
from pixelis_fast.tools_trt.store import MediaStore
from pixelis_fast.tools_trt.track import Track, TrackEngine
from pixelis_fast.tools_trt.zoom import Zoom

PRIORITIES = {
    "zoom": Priority.DECODE,
    "properties": Priority.DECODE,
    "segment": Priority.ENCODE,
    "read_text": Priority.ENCODE,
    "track": Priority.TRACK,
    "localize": Priority.TRACK,
}


@runtime_checkable
class Preparer(Protocol):
    """An engine that keeps what it computed of a picture for the calls after it."""

    def prepare(self, image_HWC: np.ndarray, *, key: str) -> None: ...

    def is_prepared(self, key: str) -> bool: ...


@dataclass(frozen=True)
class Health:
    """Whether calls are answered, and by what."""

    is_serving: bool
    engines: dict[str, str]
    """Tool -> the engine that runs it."""
    degraded: dict[str, str]
    """Tool -> why its engine is second best."""


@dataclass(frozen=True)
class ToolsetStats:
    """Counters of a toolset since it was opened."""

    calls: SchedulerStats
    results: TierStats
    pixels: TierStats

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Toolset:
    """Tools by name.

    Example:
        tools = Toolset(store, segmenter=ClassicalSegment(), tracker=ClassicalTrack(),
                        read_text=ReadText(store))
        result = tools.submit("zoom", page.id, (0, 0, 500, 500)).result()
    """

    def __init__(
        self,
        store: MediaStore,
        *,
        segmenter: SegmentEngine,
        tracker: TrackEngine,
        read_text: ReadText,
        embedder: FrameEmbedder | None = None,
        memo_bytes: int = 1 << 26,
        batch_prompts: bool = False,
        scheduler: SchedulerConfig | None = None,
    ) -> None:
        """With `batch_prompts` the waiting prompts on one picture are decoded at once.

        Their logits differ in the last bits from those of a prompt alone, so a mask may depend on
        who else asks: not for replays.
        """
        self.store = store
        self._prompts_engine = prompts_engine(segmenter) if batch_prompts else None
        self._segmenter, self._tracker, self._read_text = segmenter, tracker, read_text
        self._embedder = embedder
        self._memo = TierStore(host_bytes=memo_bytes)
        self._segment = Segment(store, segmenter)
        reader = self._remembered("read_text", read_text, subject=store.pixels_id)
        tools: dict[str, tuple[Tool, Callable[[str, float | None], Hashable] | None]] = {
            "zoom": (Zoom(store), self._crop_subject),
            "segment": (self._segment, store.pixels_id),
            "track": (Track(store, tracker), None),
            "localize": (Localize(store, read_text=reader, embedder=embedder), None),
            "properties": (Properties(store), store.pixels_id),
        }
        self._tools = {
            name: self._remembered(name, tool, subject=subject)
            for name, (tool, subject) in tools.items()
        } | {"read_text": reader}
        self._scheduler = Scheduler(self._memo, scheduler or SchedulerConfig())

    def submit(
        self,
        tool: str,
        *arguments: Any,
        deadline_s: float | None = None,
        speculative: bool = False,
        **options: Any,
    ) -> Ticket:
        """A ticket for the tool's result; what the tool refuses, `result()` raises."""
        called = self._tools[tool]
        run, key = partial(called.tool, *arguments, **options), called.key(*arguments, **options)
        # A call without a key is one that its tool refuses: that is its own affair.
        batch = None if key is None else self._batch(tool, run, arguments, options)
        work = Work(tool, run, key=key, batch=batch)
        return self._scheduler.submit(
            work,
            priority=self._priority(tool, key),
            deadline_s=deadline_s,
            speculative=speculative,
        )

    def prepare(self, tool: str, media_id: str, *, time_s: float | None = None) -> Ticket | None:
        """Computes, when nothing else waits, what a call on these pixels would begin with.

        SAM 2's features for segment and track, where text stands for read_text. None where the
        tool or its engine has no such beginning. `cancel` the ticket when the call will not come.
        """
        run = self._preparation(tool, media_id, time_s)
        if run is None:
            return None
        kind = "detection" if tool == "read_text" else "features"
        pixels = self.store.pixels_id(media_id, time_s)
        work = Work("prepare", run, key=(kind, pixels, self._engine(tool)))
        return self._scheduler.submit(work, speculative=True)

    def engines(self) -> dict[str, str]:
        return {name: self._engine(name) for name in PRIORITIES}

    def degraded(self) -> dict[str, str]:
        reasons = {"segment": self._segmenter.degraded, "track": self._tracker.degraded}
        return {tool: reason for tool, reason in reasons.items() if reason is not None}

    def health(self) -> Health:
        return Health(self._scheduler.is_serving, self.engines(), self.degraded())

    def stats(self) -> ToolsetStats:
        return ToolsetStats(self._scheduler.stats(), self._memo.stats(), self.store.stats)

    def close(self) -> None:
        """Cancels what waits and ends the compute thread."""
        self._scheduler.close()

    def _preparation(
        self, tool: str, media_id: str, time_s: float | None
    ) -> Callable[[], None] | None:
        if tool == "read_text":
            return partial(self._read_text.prepare, media_id, time_s=time_s)
        engine = {"segment": self._segmenter, "track": self._tracker}.get(tool)
        if not isinstance(engine, Preparer):
            return None
        pixels = self.store.pixels_id(media_id, time_s)
        return lambda: engine.prepare(self.store.frame(media_id, time_s), key=pixels)

    def _priority(self, tool: str, key: Hashable | None) -> Priority:
        """A prompt on a picture whose features are there is answered at once."""
        if tool == "segment" and isinstance(self._segmenter, Preparer) and key is not None:
            _, pixels, *_ = cast(tuple[Any, ...], key)
            if self._segmenter.is_prepared(pixels):
                return Priority.DECODE
        return PRIORITIES[tool]

    def _remembered(
        self, name: str, tool: Tool, *, subject: Callable[[str, float | None], Hashable] | None
    ) -> Remembered:
        fingerprint = partial(self._fingerprint, name)
        return Remembered(name, tool, self._memo, subject=subject, fingerprint=fingerprint)

    def _fingerprint(self, tool: str) -> str:
        """What decides results beside the call. Asked at every call: a session may change its
        engine, and training changes the policy's tower, which localize looks with."""
        if tool != "localize":
            return self._engine(tool)
        looks = "templates" if self._embedder is None else self._embedder.version
        return f"{self._engine(tool)} {self._read_text.engine} {looks}"

    def _engine(self, tool: str) -> str:
        if tool == "segment":
            return self._segmenter.name
        if tool == "track":
            return self._tracker.name
        if tool == "zoom":
            return self.store.resampler
        if tool == "properties":
            return "cpu:region"
        return self._read_text.engine if tool == "read_text" else "classical"

    def _crop_subject(self, media_id: str, time_s: float | None) -> Hashable:
        # A crop is named after its parent's id: equal pixels under another id give another crop.
        # And it leaves with its parent: a kept result must not name one that is gone.
        pixels = self.store.pixels_id(media_id, time_s)
        return media_id, pixels, self.store.arrival(media_id)

    def _batch(
        self, tool: str, run: Callable[[], Any], arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> Batch | None:
        """Quick calls on frames of one video run together, and prompts on one picture."""
        time_s = options.get("time_s")
        if PRIORITIES[tool] is Priority.DECODE and time_s is not None:
            return Batch(("frames", arguments[0]), FrameCall(run, time_s), run_in_order)
        if tool == "segment" and self._prompts_engine is not None:
            return self._prompt_batch(self._prompts_engine, arguments, options)
        return None

    def _prompt_batch(
        self, engine: PromptsEngine, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> Batch | None:
        try:
            request = self._segment.request(*arguments, **options)
        except ToolInputError:
            return None
        pixels = self.store.pixels_id(request.media_id, request.time_s)
        return Batch(("prompts", pixels), request, partial(self._segment.together, engine))


def prompts_engine(engine: SegmentEngine) -> PromptsEngine:
    """The engine as one that takes several prompts; ValueError when it takes one at a time."""
    if not hasattr(engine, "segment_all"):
        raise ValueError(f"batch_prompts: expected an engine with segment_all, got {engine.name}")
    return cast(PromptsEngine, engine)


@dataclass(frozen=True)
class FrameCall:
    """A call on one frame of a video."""

    run: Callable[[], Any]
    time_s: float


def run_in_order(calls: Sequence[FrameCall]) -> list[Any]:
    """Outcomes of calls on one video; its decoder goes forward through them and never turns."""
    outcomes: dict[int, Any] = {}
    for number in sorted(range(len(calls)), key=lambda n: calls[n].time_s):
        try:
            outcomes[number] = calls[number].run()
        except ToolError as error:
            outcomes[number] = error
    return [outcomes[number] for number in range(len(calls))]
