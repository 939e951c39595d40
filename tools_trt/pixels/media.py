"""What the store holds: facts about media, the recipe that defines a crop, and their checks.

A crop's id is the hash of its recipe, so it is known before any pixel is. No pixels here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from pixelis_fast.kernels.resize.op import FILTERS, Filter
from pixelis_fast.tools_trt.geometry import shown, whole_numbers
from pixelis_fast.tools_trt.pixels.video import VideoIndex
from pixelis_fast.tools_trt.results import Box, ToolInputError

MAX_CROP_SIDE = 16384


@dataclass(frozen=True)
class MediaInfo:
    """What one entry of the store is.

    Example:
        MediaInfo(id="3f…", kind="video", width=640, height=272, num_frames=250, duration_s=10.0)
    """

    id: str
    kind: Literal["image", "video"]
    width: int
    height: int
    num_frames: int = 1
    duration_s: float = 0.0


@dataclass(frozen=True)
class CropRecipe:
    """Everything that defines a crop's pixels; its hash is the crop's id.

    Example:
        CropRecipe("3f…", (100, 100, 300, 300), None, 512, 384, "bicubic")
    """

    parent_id: str
    box: Box
    """0..1000 of the parent."""
    frame: int | None
    """Number of the parent's frame; None for an image."""
    width: int
    height: int
    filter: Filter

    @property
    def id(self) -> str:
        frame = "" if self.frame is None else f"@{self.frame}"
        box = ",".join(map(str, self.box))
        text = f"{self.parent_id}{frame}#{box}@{self.width}x{self.height}:{self.filter}"
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Source:
    """One entry: its facts and what its pixels are made from."""

    info: MediaInfo
    encoded: bytes | None = None
    index: VideoIndex | None = None
    recipe: CropRecipe | None = None
    pixels_id: str = ""
    """Names the decoded pixels: equal for two encodings of the same picture."""


def check_crop(width: int, height: int, filter: Filter) -> None:
    """ToolInputError unless a crop can have this size and filter."""
    if filter not in FILTERS:
        raise ToolInputError(f"filter: expected one of {', '.join(FILTERS)}, got {shown(filter)}")
    sides = whole_numbers((width, height), 2)
    if sides is None or not 1 <= min(sides) <= max(sides) <= MAX_CROP_SIDE:
        raise ToolInputError(
            f"crop: expected sides of 1..{MAX_CROP_SIDE} pixels, got {shown((width, height))}"
        )


def refuse_time(info: MediaInfo, time_s: float | None) -> None:
    """ToolInputError when an image is given a time."""
    if time_s is not None:
        raise ToolInputError(f"time: expected none for an image, got {shown(time_s)}")
