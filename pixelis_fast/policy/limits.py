"""How large a picture the policy sees: pixel limits and frame sampling, per preset or checkpoint.

The defaults are those of Qwen3-VL's preprocessor_config.json and video_preprocessor_config.json.
The small presets see less, so that a chain with several crops stays cheap on a CPU.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def _check_range(name: str, low: int, high: int) -> None:
    if not 1 <= low <= high:
        raise ValueError(f"{name}: expected 1 <= minimum <= maximum, got {low} and {high}")


@dataclass(frozen=True)
class PatchShape:
    """How pixels become patches; the same for stills and videos."""

    patch_size: int = 16
    temporal_patch_size: int = 2
    merge_size: int = 2
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @property
    def factor(self) -> int:
        """Height and width are resized to multiples of this."""
        return self.patch_size * self.merge_size


@dataclass(frozen=True)
class ImageLimits:
    """Limits of one still image."""

    min_pixels: int = 256 * 256
    max_pixels: int = 4096 * 4096
    patch: PatchShape = field(default_factory=PatchShape)

    def __post_init__(self) -> None:
        _check_range("pixels", self.min_pixels, self.max_pixels)


@dataclass(frozen=True)
class VideoLimits:
    """Limits of one video: its sampled frames, and the pixels of all of them together."""

    min_pixels: int = 4096
    max_pixels: int = 25165824
    fps: float = 2.0
    """Frames taken per second of video."""
    min_frames: int = 4
    max_frames: int = 768
    patch: PatchShape = field(default_factory=PatchShape)

    def __post_init__(self) -> None:
        _check_range("pixels", self.min_pixels, self.max_pixels)
        _check_range("frames", self.min_frames, self.max_frames)
        if self.fps <= 0:
            raise ValueError(f"fps: expected more than 0, got {self.fps}")


@dataclass(frozen=True)
class MediaLimits:
    """Both, for one policy.

    Example:
        PRESET_LIMITS["bench-36m"].image.max_pixels  # 448 * 448
    """

    image: ImageLimits = field(default_factory=ImageLimits)
    video: VideoLimits = field(default_factory=VideoLimits)


PRESET_LIMITS: dict[str, MediaLimits] = {
    # 16 merged tokens per image at most, 4 frame pairs.
    "unit": MediaLimits(
        ImageLimits(min_pixels=64 * 64, max_pixels=128 * 128),
        VideoLimits(max_pixels=8 * 64 * 96, max_frames=8),
    ),
    # 36 merged tokens per image, two frame pairs of 16: text of PixelWorld is unreadable at this.
    "pixelworld-5m": MediaLimits(
        ImageLimits(min_pixels=160 * 160, max_pixels=192 * 192),
        VideoLimits(max_pixels=4 * 128 * 128, fps=1.0, max_frames=4),
    ),
    # The probe's image: 448 x 448, 196 merged tokens.
    "bench-36m": MediaLimits(
        ImageLimits(max_pixels=448 * 448),
        VideoLimits(max_pixels=16 * 224 * 224, max_frames=16),
    ),
    "qwen3-vl-2b": MediaLimits(),
    "qwen3-vl-4b": MediaLimits(),
    "qwen3-vl-8b": MediaLimits(),
    "qwen3-vl-32b": MediaLimits(),
}


def limits_from_folder(folder: str | Path) -> MediaLimits:
    """The limits a checkpoint folder states; its two preprocessor files must be there."""
    root = Path(folder)
    image = _read(root / "preprocessor_config.json")
    video = _read(root / "video_preprocessor_config.json")
    defaults = VideoLimits()
    return MediaLimits(
        ImageLimits(*_pixel_range(image, root), patch=_patch_shape(image)),
        VideoLimits(
            *_pixel_range(video, root),
            fps=video.get("fps", defaults.fps),
            min_frames=video.get("min_frames", defaults.min_frames),
            max_frames=video.get("max_frames", defaults.max_frames),
            patch=_patch_shape(video),
        ),
    )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path}: expected a checkpoint's preprocessor file, got no file")
    return json.loads(path.read_text())


def _pixel_range(config: dict[str, Any], root: Path) -> tuple[int, int]:
    size = config.get("size", {})
    if not {"shortest_edge", "longest_edge"} <= size.keys():
        raise ValueError(f"{root}: expected size with shortest_edge and longest_edge, got {size}")
    return size["shortest_edge"], size["longest_edge"]


def _patch_shape(config: dict[str, Any]) -> PatchShape:
    names = ("patch_size", "temporal_patch_size", "merge_size")
    given: dict[str, Any] = {name: config[name] for name in names if name in config}
    for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
        if theirs in config:
            given[ours] = tuple(config[theirs])
    return PatchShape(**given)
