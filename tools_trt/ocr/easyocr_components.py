"""Boxes around words, from CRAFT's two maps: EasyOCR's rules (arXiv 1904.01941, section 3.2).

Pixels of characters and of links form components; one that holds a sure character becomes the
smallest rectangle around it, after links are taken out and the rest grows a little. Every
component is handled inside its own bounds, so the work does not grow with their number times the
picture. Knows nothing of lines.

Shapes: h, w = maps; N = words.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from pixelis_fast.tools_trt.ocr.easyocr_config import ComponentConfig


def word_boxes(text_hw: np.ndarray, link_hw: np.ndarray, config: ComponentConfig) -> np.ndarray:
    """(N, 4, 2) corners in pixels of the maps, clockwise from the least x + y."""
    is_text_hw = text_hw > config.text
    inside_hw = (is_text_hw | (link_hw > config.link)).astype(np.uint8)
    _, labels_hw, stats, _ = cv2.connectedComponentsWithStats(inside_hw, connectivity=4)
    boxes = []
    for label in range(1, len(stats)):
        left, top, width, height, pixels = stats[label].tolist()
        if pixels < config.min_pixels:
            continue
        where = np.s_[top : top + height, left : left + width]
        member_hw = labels_hw[where] == label
        if text_hw[where][member_hw].max() < config.sure_text:
            continue
        # What was taken in only for its link score is left out of the rectangle.
        core_hw = (member_hw & is_text_hw[where]).astype(np.uint8)
        growth = int(math.sqrt(pixels * min(width, height) / (width * height)) * 2)
        grown_hw, x, y = _grow(core_hw, left, top, growth, text_hw.shape)
        boxes.append(_rectangle(_outline(grown_hw) + np.array((x, y), np.int32), config))
    return np.array(boxes, np.float32).reshape(-1, 4, 2)


def _grow(
    core_hw: np.ndarray, left: int, top: int, growth: int, limits: tuple[int, ...]
) -> tuple[np.ndarray, int, int]:
    """The component with room around it, dilated; and where that room starts."""
    height, width = core_hw.shape
    x0, y0 = max(left - growth, 0), max(top - growth, 0)
    x1, y1 = min(left + width + growth + 1, limits[1]), min(top + height + growth + 1, limits[0])
    room_hw = np.zeros((y1 - y0, x1 - x0), np.uint8)
    room_hw[top - y0 : top - y0 + height, left - x0 : left - x0 + width] = core_hw
    return cv2.dilate(room_hw, np.ones((1 + growth, 1 + growth), np.uint8)), x0, y0


def _outline(inside_hw: np.ndarray) -> np.ndarray:
    """(x, y) of the first and last pixel of each row: they span the same hull as all pixels."""
    rows = np.flatnonzero(inside_hw.any(axis=1))
    first = inside_hw[rows].argmax(axis=1)
    last = inside_hw.shape[1] - 1 - inside_hw[rows, ::-1].argmax(axis=1)
    return np.stack([np.concatenate([first, last]), np.tile(rows, 2)], axis=1).astype(np.int32)


def _rectangle(points_P2: np.ndarray, config: ComponentConfig) -> np.ndarray:
    box_42 = cv2.boxPoints(cv2.minAreaRect(points_P2))
    width, height = np.linalg.norm(box_42[0] - box_42[1]), np.linalg.norm(box_42[1] - box_42[2])
    if abs(1 - max(width, height) / (min(width, height) + 1e-5)) <= config.square_share:
        (x0, y0), (x1, y1) = points_P2.min(0), points_P2.max(0)
        box_42 = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float32)
    return np.roll(box_42, -int(box_42.sum(axis=1).argmin()), axis=0)
