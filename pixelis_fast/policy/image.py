"""Pixels -> patches for the vision tower: sizes, frame sampling and timestamps.

One call of the patchify kernel resizes, normalises and orders the patches; rollout and training
use the same tensor. Sizes, sampled frames and timestamps are those of transformers' Qwen3-VL
processors. Knows no files and no video decoding: frames come as arrays.

Shapes: T = frames, H, W = pixels, C = 3, P = patches, K = values of a patch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pixelis_fast.kernels.patchify import patchify
from pixelis_fast.policy.limits import ImageLimits, PatchShape, VideoLimits
from pixelis_fast.policy.positions import Grid

MAX_ASPECT_RATIO = 200


@dataclass(frozen=True)
class Patches:
    """One image or video as the vision tower takes it."""

    patches_PK: Tensor
    """fp32, normalised, in merge-block order."""
    grid_thw: Grid
    """Patches in time, height, width, before merging."""
    merge_size: int

    @property
    def merged_grid(self) -> Grid:
        """One entry per token."""
        t, h, w = self.grid_thw
        return t, h // self.merge_size, w // self.merge_size

    @property
    def tokens_per_frame(self) -> int:
        """Merged tokens of one image or one frame pair."""
        return self.merged_grid[1] * self.merged_grid[2]


def image_patches(image_HWC: np.ndarray, *, limits: ImageLimits, threads: int = 1) -> Patches:
    """A still image, resized within the limits."""
    height, width = image_HWC.shape[:2]
    size = smart_resize(
        height,
        width,
        factor=limits.patch.factor,
        min_pixels=limits.min_pixels,
        max_pixels=limits.max_pixels,
    )
    return _patches(image_HWC[None], size, limits.patch, threads=threads)


def video_patches(frames_THWC: np.ndarray, *, limits: VideoLimits, threads: int = 1) -> Patches:
    """Sampled frames of one video; an odd last frame is shown twice."""
    num_frames, height, width = frames_THWC.shape[:3]
    size = video_size(num_frames, height, width, limits=limits)
    return _patches(frames_THWC, size, limits.patch, threads=threads)


def smart_resize(
    height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Height and width as multiples of factor, their product in the range, the aspect kept."""
    _check_aspect(height, width)
    target = round(height / factor) * factor, round(width / factor) * factor
    pixels = target[0] * target[1]
    if pixels > max_pixels:
        return _shrink(height, width, factor, math.sqrt(height * width / max_pixels))
    if pixels < min_pixels:
        return _enlarge(height, width, factor, math.sqrt(min_pixels / (height * width)))
    return target


def video_size(num_frames: int, height: int, width: int, *, limits: VideoLimits) -> tuple[int, int]:
    """Height and width of every frame; the limits count the pixels of all frames."""
    factor, steps = limits.patch.factor, limits.patch.temporal_patch_size
    if num_frames < steps:
        raise ValueError(f"num_frames: expected at least {steps}, got {num_frames}")
    if min(height, width) < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    _check_aspect(height, width)
    target = round(height / factor) * factor, round(width / factor) * factor
    pixels = round(num_frames / steps) * steps * target[0] * target[1]
    if pixels > limits.max_pixels:
        beta = math.sqrt(num_frames * height * width / limits.max_pixels)
        return _shrink(height, width, factor, beta)
    if pixels < limits.min_pixels:
        beta = math.sqrt(limits.min_pixels / (num_frames * height * width))
        return _enlarge(height, width, factor, beta)
    return target


def sample_frames(num_frames: int, fps: float, *, limits: VideoLimits) -> list[int]:
    """Indices of the frames the policy sees, spread evenly from the first to the last."""
    if num_frames < 1 or fps <= 0:
        raise ValueError(f"video: expected frames and fps above 0, got {num_frames} and {fps}")
    wanted = int(num_frames / fps * limits.fps)
    wanted = min(max(wanted, limits.min_frames), limits.max_frames, num_frames)
    return np.linspace(0, num_frames - 1, wanted).round().astype(int).tolist()


def timestamps(
    frame_indices: Sequence[int], fps: float, *, temporal_patch_size: int = 2
) -> list[float]:
    """Seconds shown for each temporal patch: the middle of its first and last frame."""
    indices = list(frame_indices)
    indices += indices[-1:] * (-len(indices) % temporal_patch_size)
    groups = range(0, len(indices), temporal_patch_size)
    last = temporal_patch_size - 1
    return [(indices[start] / fps + indices[start + last] / fps) / 2 for start in groups]


def _patches(
    frames_THWC: np.ndarray, size: tuple[int, int], patch: PatchShape, *, threads: int
) -> Patches:
    height, width = size
    flat = patchify(
        frames_THWC,
        height=height,
        width=width,
        patch_size=patch.patch_size,
        temporal_patch_size=patch.temporal_patch_size,
        merge_size=patch.merge_size,
        mean=patch.mean,
        std=patch.std,
        threads=threads,
    )
    grid_t = math.ceil(len(frames_THWC) / patch.temporal_patch_size)
    grid = (grid_t, height // patch.patch_size, width // patch.patch_size)
    return Patches(torch.from_numpy(flat), grid, patch.merge_size)


def _check_aspect(height: int, width: int) -> None:
    if min(height, width) < 1:
        raise ValueError(f"image: expected positive height and width, got {height} x {width}")
    if max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
        raise ValueError(
            f"image: expected an aspect ratio up to {MAX_ASPECT_RATIO}, got {height} x {width}"
        )


def _shrink(height: int, width: int, factor: int, beta: float) -> tuple[int, int]:
    return (
        max(factor, math.floor(height / beta / factor) * factor),
        max(factor, math.floor(width / beta / factor) * factor),
    )


def _enlarge(height: int, width: int, factor: int, beta: float) -> tuple[int, int]:
    return (
        math.ceil(height * beta / factor) * factor,
        math.ceil(width * beta / factor) * factor,
    )
