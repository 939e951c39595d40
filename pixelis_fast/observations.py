"""What the policy gets to read of a tool's result: compact JSON, and the masks it made.

Numbers are rounded to what a policy can use. Knows no engine and no workspace.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pixelis_fast.types import Mask, Media, Observation

if TYPE_CHECKING:
    from pixelis_fast.tools import (
        LocalizeResult,
        PropertiesResult,
        ReadTextResult,
        RleMask,
        SegmentResult,
        ToolResult,
        TrackResult,
    )

MAX_LINES = 40
"""Longest list of text lines in one observation; what is left out is counted in it."""


def observation(
    result: ToolResult,
    content: dict[str, Any],
    *,
    media: tuple[Media, ...] = (),
    masks: tuple[Mask, ...] = (),
) -> Observation:
    """The content as JSON, with what the result says of its engine."""
    if result.degraded is not None:
        content = {**content, "degraded": True}
    return Observation(
        text=compact_json(content),
        media=media,
        masks=masks,
        degraded=result.degraded,
        engine=result.engine,
        stage_ms=asdict(result.stage_ms),
    )


def error_observation(message: str) -> Observation:
    """What the policy reads when its call could not be parsed or run."""
    return Observation(text=compact_json({"error": message}), error=message)


def segment_content(result: SegmentResult, *, mask: int) -> dict[str, Any]:
    return {
        "mask": mask,
        "box": result.box,
        "area": round(result.area_permille, 1),
        "score": round(result.score, 2),
    }


def text_content(result: ReadTextResult) -> dict[str, Any]:
    lines = [{"text": line.text, "box": line.box} for line in result.lines]
    content: dict[str, Any] = {"lines": lines[:MAX_LINES]}
    if len(lines) > MAX_LINES:
        content["omitted"] = len(lines) - MAX_LINES
    return content


def spans_content(result: LocalizeResult) -> dict[str, Any]:
    spans = [[round(s.start_s, 2), round(s.end_s, 2), round(s.score, 2)] for s in result.spans]
    return {"spans": spans, "keyframe": result.keyframe_s and round(result.keyframe_s, 2)}


def properties_content(result: PropertiesResult) -> dict[str, Any]:
    return {
        "area": round(result.area_permille, 1),
        "box": result.box,
        "center": result.centroid,
        "color": result.color_name,
        "rgb": result.color_rgb,
        "angle": round(result.orientation_deg),
        "elongation": round(result.elongation, 2),
    }


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


def compact_json(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
