"""A parsed call -> an engine -> an Observation; the only file that touches tools_trt.

Every bad call ends here, in one place, as an Observation with an error that the policy can read.
Pixels stay in the media store: observations carry ids, run-length masks and compact JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pixelis_fast.tools_trt.backends import probe_backends
from pixelis_fast.tools_trt.classical_segment import ClassicalSegment
from pixelis_fast.tools_trt.classical_track import ClassicalTrack
from pixelis_fast.tools_trt.localize import FrameEmbedder, Localize
from pixelis_fast.tools_trt.properties import Properties
from pixelis_fast.tools_trt.read_text import ReadText, ReadTextConfig
from pixelis_fast.tools_trt.results import (
    RleMask,
    ToolError,
    ToolInputError,
    ToolResult,
    TrackResult,
)
from pixelis_fast.tools_trt.segment import Segment, SegmentEngine
from pixelis_fast.tools_trt.store import MediaStore
from pixelis_fast.tools_trt.text_recognizer import RecognizerConfig
from pixelis_fast.tools_trt.text_weights import ANGLE, DETECTOR, RECOGNIZER, text_weights
from pixelis_fast.tools_trt.track import Track, TrackEngine
from pixelis_fast.tools_trt.zoom import Zoom
from pixelis_fast.types import Mask, Media, MediaKind, Observation, ToolCall

__all__ = ["FrameEmbedder", "MediaStore", "ToolBox", "ToolError", "probe_backends"]

MAX_LINES = 40
"""Longest list of text lines in one observation; what is left out is counted in it."""


@dataclass(frozen=True)
class ToolConfig:
    """Which engines the tools run on.

    Example:
        ToolConfig(sam2="sam2.1_hiera_tiny.pt")
    """

    sam2: str | None = None
    """A transformers folder, an original .pt, "random", or None for the classical engines."""
    sam2_model: str = "tiny"
    """Size of random weights: tiny, small, base_plus or large."""
    sam2_side: int = 1024
    """Side of SAM2's square input."""
    feature_cache_bytes: int = 1 << 30
    """Budget of SAM2's image features; 0 encodes at every call."""
    text_backend: str = "openvino"
    """openvino (the quicker one in `bench/text.py --ablate`) or ort. Named, so that a replay reads
    with the arithmetic of its trace."""
    text_memo_size: int = 4096
    """Text results kept; 0 reads again at every call."""
    text_batch_size: int = 1
    """Lines of text the recogniser reads at once."""
    text_width_step: int | None = 64
    """A line is padded to a multiple of this; None pads to the widest line of its batch."""
    store_bytes: int = 1 << 30
    """Budget of decoded pixels."""


@dataclass
class Workspace:
    """What one trajectory's calls can refer to: the sample's media, and masks made so far."""

    media: tuple[Media, ...]
    masks: list[Mask] = field(default_factory=list)

    def media_at(self, index: int) -> Media:
        if not 0 <= index < len(self.media):
            raise ToolInputError(f"media: expected 0..{len(self.media) - 1}, got {index}")
        return self.media[index]

    def mask_at(self, index: int) -> Mask:
        if not self.masks:
            raise ToolInputError(f"mask: expected one from segment or track first, got {index}")
        if not 0 <= index < len(self.masks):
            raise ToolInputError(f"mask: expected 0..{len(self.masks) - 1}, got {index}")
        return self.masks[index]

    def name_mask(self, mask: Mask) -> int:
        self.masks.append(mask)
        return len(self.masks) - 1


@dataclass(frozen=True)
class Returned:
    """A tool's result with what the policy gets to see of it."""

    result: ToolResult
    content: dict[str, Any]
    media: tuple[Media, ...] = ()
    masks: tuple[Mask, ...] = ()


class ToolBox:
    """The six tools over one media store.

    Example:
        ToolBox(store).run(ToolCall("zoom", {"media": 0, "box": [0, 0, 500, 500]}), workspace)
    """

    def __init__(
        self,
        store: MediaStore,
        *,
        zoom: Zoom,
        segment: Segment,
        track: Track,
        read_text: ReadText,
        localize: Localize,
        properties: Properties,
        degraded: tuple[str, ...] = (),
    ) -> None:
        self.store, self.degraded = store, degraded
        self._zoom, self._segment, self._track = zoom, segment, track
        self._read_text, self._localize, self._properties = read_text, localize, properties
        self._handlers: dict[str, Callable[[dict[str, Any], Workspace], Returned]] = {
            "zoom": self._run_zoom,
            "segment": self._run_segment,
            "track": self._run_track,
            "read_text": self._run_read_text,
            "localize": self._run_localize,
            "properties": self._run_properties,
        }

    def run(self, call: ToolCall, workspace: Workspace) -> Observation:
        """Runs one call; a tool's refusal becomes an Observation with its message."""
        try:
            returned = self._handlers[call.operation](call.arguments, workspace)
        except ToolError as error:
            return error_observation(str(error))
        return observation(returned)

    def add_media(self, path: Path) -> Media:
        """Stores an image or a video file; ToolInputError when it cannot be decoded."""
        if not path.is_file():
            raise ToolInputError(f"media: expected a file, got {path}")
        is_video = path.suffix.lower() in VIDEO_SUFFIXES
        info = self.store.add_video(path) if is_video else self.store.add_image(path)
        return self.media(info.id)

    def media(self, media_id: str) -> Media:
        info = self.store.info(media_id)
        return Media(
            id=info.id,
            kind=MediaKind(info.kind),
            width=info.width,
            height=info.height,
            num_frames=info.num_frames,
            duration_s=info.duration_s,
        )

    def image(self, media_id: str) -> np.ndarray:
        """RGB uint8 HWC, read-only."""
        return self.store.image(media_id)

    def frames(self, media_id: str, numbers: Sequence[int]) -> list[np.ndarray]:
        """A video's frames by number, RGB uint8 HWC, read-only."""
        times_s = self.store.index(media_id).times_s
        return self.store.frames(media_id, [times_s[number] for number in numbers])

    def _run_zoom(self, arguments: dict[str, Any], workspace: Workspace) -> Returned:
        media, time_s = target(arguments, workspace)
        result = self._zoom(media.id, tuple(arguments["box"]), time_s=time_s)
        return Returned(result, {"view": result.box}, media=(self.media(result.media_id),))

    def _run_segment(self, arguments: dict[str, Any], workspace: Workspace) -> Returned:
        media, time_s = target(arguments, workspace)
        prompt = {key: tuple(arguments[key]) for key in ("point", "box") if key in arguments}
        result = self._segment(media.id, **prompt, time_s=time_s)
        mask = to_mask(result.mask, media=media, time_s=time_s)
        content = {
            "mask": workspace.name_mask(mask),
            "box": result.box,
            "area": round(result.area_permille, 1),
            "score": round(result.score, 2),
        }
        return Returned(result, content, masks=(mask,))

    def _run_track(self, arguments: dict[str, Any], workspace: Workspace) -> Returned:
        media = video(arguments, workspace)
        start_s, end_s = arguments["start"], arguments["end"]
        result = self._track(media.id, tuple(arguments["box"]), start_s=start_s, end_s=end_s)
        content: dict[str, Any] = {"track": track_rows(result)}
        masks = seen_masks(result, media=media)
        if masks:
            content["mask"] = workspace.name_mask(masks[-1])
        return Returned(result, content, masks=masks)

    def _run_read_text(self, arguments: dict[str, Any], workspace: Workspace) -> Returned:
        media, time_s = target(arguments, workspace)
        box = tuple(arguments["box"]) if "box" in arguments else None
        result = self._read_text(media.id, box, time_s=time_s)
        lines = [{"text": line.text, "box": line.box} for line in result.lines]
        content: dict[str, Any] = {"lines": lines[:MAX_LINES]}
        if len(lines) > MAX_LINES:
            content["omitted"] = len(lines) - MAX_LINES
        return Returned(result, content)

    def _run_localize(self, arguments: dict[str, Any], workspace: Workspace) -> Returned:
        media = video(arguments, workspace)
        box = tuple(arguments["box"]) if "box" in arguments else None
        result = self._localize(
            media.id,
            arguments["event"],
            box=box,
            time_s=arguments.get("time"),
            query=arguments.get("query"),
        )
        spans = [[round(s.start_s, 2), round(s.end_s, 2), round(s.score, 2)] for s in result.spans]
        content = {"spans": spans, "keyframe": result.keyframe_s and round(result.keyframe_s, 2)}
        return Returned(result, content)

    def _run_properties(self, arguments: dict[str, Any], workspace: Workspace) -> Returned:
        mask = workspace.mask_at(arguments["mask"])
        rle = RleMask(size=list(mask.size), counts=mask.counts)
        result = self._properties(mask.media_id, rle, time_s=mask.time_s)
        content = {
            "area": round(result.area_permille, 1),
            "box": result.box,
            "center": result.centroid,
            "color": result.color_name,
            "rgb": result.color_rgb,
            "angle": round(result.orientation_deg),
            "elongation": round(result.elongation, 2),
        }
        return Returned(result, content)


def open_tools(
    config: ToolConfig,
    *,
    embed_frames: FrameEmbedder | None = None,
    device: str = "cpu",
    threads: int = 1,
) -> ToolBox:
    """The tools on the engines the config names; embed_frames is the policy's vision tower.

    device is SAM2's; the other tools run on the CPU.
    """
    store = MediaStore(config.store_bytes)
    segmenter, tracker = open_masks(config, device=device)
    read_text = ReadText(
        store,
        backend=config.text_backend,
        threads=threads,
        config=text_config(config),
    )
    degraded = {"segment": segmenter.degraded, "track": tracker.degraded}
    return ToolBox(
        store,
        zoom=Zoom(store),
        segment=Segment(store, segmenter),
        track=Track(store, tracker),
        read_text=read_text,
        localize=Localize(store, read_text=read_text, embedder=embed_frames),
        properties=Properties(store),
        degraded=tuple(f"{tool}: {reason}" for tool, reason in degraded.items() if reason),
    )


def text_config(config: ToolConfig) -> ReadTextConfig:
    recognizer = RecognizerConfig(
        batch_size=config.text_batch_size, width_step=config.text_width_step
    )
    return ReadTextConfig(recognizer=recognizer, memo_size=config.text_memo_size)


def open_masks(config: ToolConfig, *, device: str) -> tuple[SegmentEngine, TrackEngine]:
    """The engines of segment and track; both SAM2 engines share one encoder."""
    if config.sam2 is None:
        return ClassicalSegment(), ClassicalTrack()
    # Imported when asked for: transformers' SAM2 costs seconds that the classical engines do not.
    from pixelis_fast.tools_trt.sam2 import Sam2
    from pixelis_fast.tools_trt.sam2_segment import Sam2Segment
    from pixelis_fast.tools_trt.sam2_track import Sam2Track

    options: dict[str, Any] = {"device": device, "cache_bytes": config.feature_cache_bytes}
    if config.sam2 == "random":
        sam2 = Sam2.random(config.sam2_model, side=config.sam2_side, **options)
    else:
        sam2 = Sam2.load(config.sam2, side=config.sam2_side, **options)
    return Sam2Segment(sam2), Sam2Track(sam2)


def describe_tools(config: ToolConfig) -> dict[str, str]:
    """What each tool would run on, without loading weights that take long."""
    masks = f"sam2 from {config.sam2}" if config.sam2 else "classical (degraded: no SAM2 weights)"
    return {
        "zoom": "C++ resize, CPU",
        "segment": masks,
        "track": masks,
        "read_text": f"pp-ocrv6-small on {config.text_backend}",
        "localize": "frame statistics, template or vision-tower appearance, read_text",
        "properties": "C++ moments, CPU",
    }


def shipped_weights() -> list[Path]:
    """Weight files that the tools find in installed packages."""
    return [text_weights(name) for name in (DETECTOR, RECOGNIZER, ANGLE)]


VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v"})


def target(arguments: dict[str, Any], workspace: Workspace) -> tuple[Media, float | None]:
    """The media a call names, and the time that a video needs and an image refuses."""
    media = workspace.media_at(arguments["media"])
    time_s = arguments.get("time")
    if media.kind is MediaKind.VIDEO and time_s is None:
        raise ToolInputError(f"time: expected seconds in 0..{media.duration_s:.2f}, got none")
    if media.kind is MediaKind.IMAGE and time_s is not None:
        raise ToolInputError(f"time: expected none for an image, got {time_s}")
    return media, time_s


def video(arguments: dict[str, Any], workspace: Workspace) -> Media:
    media = workspace.media_at(arguments["media"])
    if media.kind is not MediaKind.VIDEO:
        raise ToolInputError(f"media: expected a video, got image {arguments['media']}")
    return media


def track_rows(result: TrackResult) -> list[list[Any]]:
    """[seconds, x0, y0, x1, y1] per frame, [seconds, "lost"] where the object is not seen."""
    rows = zip(result.times_s, result.boxes, strict=True)
    return [[round(time_s, 2), *(box or ("lost",))] for time_s, box in rows]


def seen_masks(result: TrackResult, *, media: Media) -> tuple[Mask, ...]:
    return tuple(
        to_mask(rle, media=media, time_s=time_s)
        for time_s, rle in zip(result.times_s, result.masks, strict=True)
        if rle is not None
    )


def to_mask(rle: RleMask, *, media: Media, time_s: float | None) -> Mask:
    height, width = rle["size"]
    return Mask(media.id, time_s, (height, width), rle["counts"])


def observation(returned: Returned) -> Observation:
    result = returned.result
    content = dict(returned.content)
    if result.degraded is not None:
        content["degraded"] = True
    return Observation(
        text=compact_json(content),
        media=returned.media,
        masks=returned.masks,
        degraded=result.degraded,
        engine=result.engine,
        stage_ms=asdict(result.stage_ms),
    )


def error_observation(message: str) -> Observation:
    """What the policy reads when its call could not be parsed or run."""
    return Observation(text=compact_json({"error": message}), error=message)


def compact_json(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
