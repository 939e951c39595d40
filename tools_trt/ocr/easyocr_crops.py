"""Lines cut out of the grey picture and brought to the recogniser's height, by EasyOCR's rules.

A line's width in the graph depends on its own shape only: a multiple of the height, the rest filled
with the line's last column. Knows nothing of characters.

Shapes: H, W = grey picture; h, w = line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from pixelis_fast.tools_trt.models.crnn import LINE_HEIGHT
from pixelis_fast.tools_trt.ocr.easyocr_lines import Upright

TO_UNIT = ((np.arange(256, dtype=np.float32) / 255 - np.float32(0.5)) / np.float32(0.5)).astype(
    np.float32
)
"""Byte to the range -1..1 the graph was trained on."""


@dataclass(frozen=True)
class Cut:
    """One line to read."""

    quad_42: np.ndarray
    """Where it lies in the picture."""
    pixels_hw: np.ndarray
    """Grey bytes, the shorter side LINE_HEIGHT."""
    width: int
    """Of the graph's input."""


def cut_lines(
    grey_HW: np.ndarray, lines: Sequence[Upright], slanted: Sequence[np.ndarray]
) -> list[Cut]:
    """Level lines and slanted words that have pixels inside the picture."""
    cuts = [_cut_upright(grey_HW, line) for line in lines]
    cuts += [_cut_slanted(grey_HW, quad_42) for quad_42 in slanted]
    return [cut for cut in cuts if cut is not None]


def line_planes(pixels_hw: np.ndarray, width: int) -> np.ndarray:
    """(LINE_HEIGHT, width) in -1..1; a line that stands upright is squeezed to that height."""
    height, filled = pixels_hw.shape
    if height != LINE_HEIGHT:
        filled = min(width, math.ceil(LINE_HEIGHT * (filled / height)))
        size = (filled, LINE_HEIGHT)
        pixels_hw = np.asarray(Image.fromarray(pixels_hw).resize(size, Image.Resampling.BICUBIC))
    plane_hw = np.empty((LINE_HEIGHT, width), np.float32)
    plane_hw[:, :filled] = TO_UNIT[pixels_hw]
    plane_hw[:, filled:] = plane_hw[:, filled - 1 : filled]
    return plane_hw


def with_contrast(pixels_hw: np.ndarray, target: float) -> np.ndarray:
    """The line with its grey levels spread, if they lie close together."""
    low, high = np.percentile(pixels_hw, (10, 90)).tolist()
    if (high - low) / max(10, high + low) >= target:
        return pixels_hw
    spread_hw = (pixels_hw.astype(int) - low + 25) * (200 / max(10, high - low))
    return spread_hw.clip(0, 255).astype(np.uint8)


def _cut_upright(grey_HW: np.ndarray, line: Upright) -> Cut | None:
    height, width = grey_HW.shape
    inside = Upright(
        max(0, line.left), min(line.right, width), max(0, line.top), min(line.bottom, height)
    )
    if inside.width <= 0 or inside.height <= 0:
        return None
    pixels_hw = grey_HW[inside.top : inside.bottom, inside.left : inside.right]
    return _scaled(inside.quad(), pixels_hw)


def _cut_slanted(grey_HW: np.ndarray, quad_42: np.ndarray) -> Cut | None:
    corners_42 = quad_42.astype(np.float32)
    sides = np.linalg.norm(corners_42 - np.roll(corners_42, -1, axis=0), axis=1)
    width, height = max(int(sides[0]), int(sides[2])), max(int(sides[1]), int(sides[3]))
    if width == 0 or height == 0:
        return None
    w, h = width - 1, height - 1
    flat_42 = np.array([(0, 0), (w, 0), (w, h), (0, h)], np.float32)
    matrix = cv2.getPerspectiveTransform(corners_42, flat_42)
    return _scaled(quad_42, cv2.warpPerspective(grey_HW, matrix, (width, height)))


def _scaled(quad_42: np.ndarray, pixels_hw: np.ndarray) -> Cut:
    height, width = pixels_hw.shape
    ratio = width / height
    if ratio < 1:
        ratio = 1 / ratio
        size = (LINE_HEIGHT, int(LINE_HEIGHT * ratio))
    else:
        size = (int(LINE_HEIGHT * ratio), LINE_HEIGHT)
    # EasyOCR passes Pillow's constant for Lanczos here, which OpenCV reads as linear.
    scaled_hw = cv2.resize(pixels_hw, size, interpolation=cv2.INTER_LINEAR)
    return Cut(quad_42, scaled_hw, math.ceil(ratio) * LINE_HEIGHT)
