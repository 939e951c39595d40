"""Shifts of a picture or video, five severities each: what a policy meets after it was trained.

Content stays where it is, so boxes and times stay true. What has a direction or a tint draws it
once per call: a video is shifted as one camera would, only noise differs by frame.

Shapes: T = frames; H, W = frame; C = 3 colours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

SEVERITIES = (1, 2, 3, 4, 5)
GAINS = (0.8, 0.65, 0.5, 0.38, 0.28)
"""Brightness left by the lighting shift on its dark side."""
BLUR_SHARES = (0.0028, 0.0042, 0.006, 0.0088, 0.014)
"""Length of the motion, of the longer side."""
NOISE_LEVELS = (6.0, 11.0, 17.0, 25.0, 36.0)
CAST_SHARES = (0.12, 0.22, 0.33, 0.45, 0.6)
JPEG_QUALITIES = (40, 22, 13, 8, 4)
SCALES = (0.8, 0.66, 0.55, 0.46, 0.38)


@dataclass(frozen=True)
class ShiftConfig:
    """One shift.

    Example:
        ShiftConfig("noise", severity=3)
    """

    kind: str
    severity: int = 3

    def __post_init__(self) -> None:
        if self.kind not in SHIFTS:
            raise ValueError(f"kind: expected one of {', '.join(SHIFTS)}, got {self.kind!r}")
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity: expected 1..{len(SEVERITIES)}, got {self.severity!r}")


def apply_shift(
    frames_THWC: np.ndarray, config: ShiftConfig, rng: np.random.Generator
) -> np.ndarray:
    """New frames of the same shape; equal generators give equal frames."""
    if frames_THWC.ndim != 4 or frames_THWC.shape[-1] != 3 or frames_THWC.dtype != np.uint8:
        raise ValueError(
            f"frames: expected uint8 of (T, H, W, 3), got {frames_THWC.dtype} of "
            f"{frames_THWC.shape}"
        )
    shift = SHIFTS[config.kind](frames_THWC.shape[1:3], config.severity - 1, rng)
    return np.stack([shift(frame_HWC) for frame_HWC in frames_THWC])


Shift = Callable[[np.ndarray], np.ndarray]
Size = tuple[int, ...]


def _lighting(size: Size, level: int, rng: np.random.Generator) -> Shift:
    """Dark on one side, a little less on the other, and a gamma that eats the shadows."""
    height, width = size
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    across = (x / width - 0.5) * np.cos(angle) + (y / height - 0.5) * np.sin(angle)
    gain = GAINS[level] * (1 + 0.4 * across.clip(-0.5, 0.5))
    gain_HW1 = gain.astype(np.float32)[..., None]
    gamma = 1 + 0.12 * (level + 1)
    curve = ((np.arange(256) / 255) ** gamma * 255).astype(np.float32)
    return lambda frame_HWC: _bytes(curve[frame_HWC] * gain_HW1)


def _motion_blur(size: Size, level: int, rng: np.random.Generator) -> Shift:
    length = BLUR_SHARES[level] * max(size)
    half = int(np.ceil(length / 2)) + 1
    angle = rng.uniform(0, np.pi)
    reach = np.array([np.cos(angle), np.sin(angle)]) * length / 2
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    start, end = half - reach, half + reach
    for share in np.linspace(0, 1, 8 * half):
        _add_point(kernel, *(start + share * (end - start)))
    kernel /= kernel.sum()
    return lambda frame_HWC: cv2.filter2D(frame_HWC, -1, kernel)


def _add_point(kernel: np.ndarray, x: float, y: float) -> None:
    """Adds one unit at a fractional place, shared among the four cells around it."""
    column, row = int(x), int(y)
    right, down = x - column, y - row
    for n, across in ((column, 1 - right), (column + 1, right)):
        kernel[row, n] += across * (1 - down)
        kernel[row + 1, n] += across * down


def _noise(size: Size, level: int, rng: np.random.Generator) -> Shift:
    def shift(frame_HWC: np.ndarray) -> np.ndarray:
        noise = rng.standard_normal(frame_HWC.shape, np.float32) * NOISE_LEVELS[level]
        return _bytes(frame_HWC + noise)

    return shift


def _color_cast(size: Size, level: int, rng: np.random.Generator) -> Shift:
    """One colour channel stronger, the others weaker."""
    share = CAST_SHARES[level]
    gains = np.full(3, 1 - 0.5 * share, np.float32)
    gains[rng.integers(3)] = 1 + 0.3 * share
    gains[(int(gains.argmax()) + rng.integers(1, 3)) % 3] = 1 - share
    return lambda frame_HWC: _bytes(frame_HWC * gains)


def _compression(size: Size, level: int, rng: np.random.Generator) -> Shift:
    def shift(frame_HWC: np.ndarray) -> np.ndarray:
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITIES[level]]
        is_done, data = cv2.imencode(".jpg", frame_HWC[..., ::-1], quality)
        if not is_done:
            raise RuntimeError(f"JPEG: expected a picture, got shape {frame_HWC.shape}")
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert decoded is not None
        return np.ascontiguousarray(decoded[..., ::-1])

    return shift


def _scale(size: Size, level: int, rng: np.random.Generator) -> Shift:
    """A camera of less resolution."""
    height, width = size
    small = max(round(width * SCALES[level]), 1), max(round(height * SCALES[level]), 1)

    def shift(frame_HWC: np.ndarray) -> np.ndarray:
        reduced = cv2.resize(frame_HWC, small, interpolation=cv2.INTER_AREA)
        return cv2.resize(reduced, (width, height), interpolation=cv2.INTER_LINEAR)

    return shift


def _bytes(frame_HWC: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(frame_HWC), 0, 255).astype(np.uint8)


SHIFTS: dict[str, Callable[[Size, int, np.random.Generator], Shift]] = {
    "lighting": _lighting,
    "motion_blur": _motion_blur,
    "noise": _noise,
    "color_cast": _color_cast,
    "compression": _compression,
    "scale": _scale,
}
