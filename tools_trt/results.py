"""Typed outputs of the tools, and the errors they raise.

Coordinates 0..1000 of the original frame, times in seconds, masks as COCO run-length dictionaries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypedDict

Point = tuple[int, int]
Box = tuple[int, int, int, int]
Affine = tuple[tuple[float, float, float], tuple[float, float, float]]


class RleMask(TypedDict):
    """COCO run-length mask: size = [height, width] in pixels of the media, counts = ASCII."""

    size: list[int]
    counts: str


class ToolError(Exception):
    """A tool could not do its work; the message is for the policy and for a person."""


class ToolInputError(ToolError, ValueError):
    """The caller's fault: the message says what was expected and what came."""


class MissingWeightsError(ToolError):
    """Weights named by the caller are not there or do not fit; says which and where."""


@dataclass(frozen=True)
class StageMs:
    """Milliseconds spent per stage of one call."""

    queue: float = 0.0
    pre: float = 0.0
    run: float = 0.0
    post: float = 0.0


@dataclass(frozen=True)
class ToolResult:
    """Common to all results."""

    engine: str
    """Which engine ran, e.g. "openvino:pp-ocrv6-small", "classical:grabcut"."""
    degraded: str | None
    """Why this engine is second best here; None when it is the real one."""
    stage_ms: StageMs = field(compare=False)


@dataclass(frozen=True)
class ZoomResult(ToolResult):
    media_id: str
    """The crop, in the store; the id is derived from parent, box and size."""
    box: Box
    """What the crop shows, after clipping, in the parent's coordinates."""
    width: int
    height: int
    original_id: str
    """The added media that the crop was cut from, through crops of crops."""
    affine: Affine
    """Two rows that map a pixel (x, y, 1) of the crop to pixels of the original."""


@dataclass(frozen=True)
class SegmentResult(ToolResult):
    mask: RleMask
    box: Box
    area_permille: float
    """Share of the frame, in thousandths."""
    score: float


@dataclass(frozen=True)
class TrackResult(ToolResult):
    """One entry per visited frame; box and mask are None where the object is lost."""

    times_s: tuple[float, ...]
    boxes: tuple[Box | None, ...]
    masks: tuple[RleMask | None, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class TextLine:
    text: str
    box: Box
    score: float
    polygon: tuple[Point, ...]
    """Four corners, clockwise from the text's own top left."""


@dataclass(frozen=True)
class ReadTextResult(ToolResult):
    lines: tuple[TextLine, ...]
    """In reading order."""


@dataclass(frozen=True)
class ScoredSpan:
    start_s: float
    end_s: float
    score: float


@dataclass(frozen=True)
class LocalizeResult(ToolResult):
    spans: tuple[ScoredSpan, ...]
    """Best first."""
    keyframe_s: float | None
    """The frame that shows the event best; None when no span was found."""


@dataclass(frozen=True)
class PropertiesResult(ToolResult):
    area_px: int
    area_permille: float
    box: Box
    centroid: Point
    color_rgb: tuple[int, int, int]
    """Mean colour inside the mask."""
    color_name: str
    orientation_deg: float
    """Angle of the major axis to the x axis, in (-90, 90], counter-clockwise positive."""
    elongation: float
    """Major over minor axis length of the ellipse with the same second moments, >= 1."""
