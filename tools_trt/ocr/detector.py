"""Text lines in a picture: PP-OCR's detector (differentiable binarization, arXiv 1911.08947).

The graph gives a probability per pixel that shrunken text covers it. Regions above a threshold
become rectangles, and each grows by area * ratio / perimeter to undo the shrinking (Vatti
clipping). The resize rules and thresholds are those the weights were published with. Knows nothing
of characters or of the 0..1000 frame.

Enlargement is bounded, unlike in rapidocr: time grows with the area, and a strip of one line blown
up to a short side of 736 is slow and misread. `bench/text.py --ablate`, 132 pictures with 7,586
known characters (pages, lines, words and signs of 8 to 56 px), processor time of a read and wrong
characters: without bound 946 ms, 85 wrong; at most twice 396 ms, 22; at most twice and 300,000
pixels 284 ms, 18; never enlarged 239 ms, 17. Only what exceeds `max_side` is reduced.

Shapes: H, W = picture; Q = quadrilaterals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import pyclipper
import torch

from pixelis_fast.tools_trt.backends import Session
from pixelis_fast.tools_trt.timing import StageClock

STRIDE = 32
"""The graph halves its input five times."""
MIN_SIDE_PX = 3
"""Thinner regions are noise."""
TO_UNIT = ((np.arange(256) / 255 - 0.5) / 0.5).astype(np.float32)
"""Byte to the range -1..1 the graph was trained on."""


@dataclass(frozen=True)
class DetectorConfig:
    """Resize rules and thresholds of the detector."""

    short_side: int = 736
    """Smaller pictures are enlarged until their short side measures this."""
    max_enlargement: float | None = 2.0
    """But never by more than this factor; None sets no limit, as rapidocr does."""
    max_enlarged_px: int | None = 300_000
    """And never to more pixels than this, 640 x 469; None sets no limit."""
    max_side: int = 2000
    """Larger pictures are reduced first."""
    min_side: int = 30
    """Thinner pictures are enlarged first."""
    max_aspect: float = 8.0
    """Wider pictures, such as a single line, get black bars above and below."""
    threshold: float = 0.3
    box_threshold: float = 0.5
    """Least mean probability inside a box."""
    unclip_ratio: float = 1.6
    max_boxes: int = 1000

    def __post_init__(self) -> None:
        if self.max_enlargement is not None and self.max_enlargement < 1:
            raise ValueError(f"max_enlargement: expected at least 1, got {self.max_enlargement}")
        if self.max_enlarged_px is not None and self.max_enlarged_px < 1:
            raise ValueError(f"max_enlarged_px: expected at least 1, got {self.max_enlarged_px}")


@dataclass(frozen=True)
class Sheet:
    """The picture the detector looks at and lines are cut from, and the way back."""

    image: np.ndarray
    scale_x: float
    """Pixels of the original per pixel of the sheet."""
    scale_y: float
    top: int
    """Height of the black bar above the picture."""

    def to_original(self, quads_Q42: np.ndarray, width: int, height: int) -> np.ndarray:
        moved = (quads_Q42 - (0, self.top)) * (self.scale_x, self.scale_y)
        return np.clip(moved, 0, (width, height))


class TextDetector:
    """Finds text lines.

    Example:
        sheet = detector.sheet(image_HWC)
        quads_Q42 = detector(sheet, clock)
    """

    def __init__(self, session: Session, config: DetectorConfig | None = None) -> None:
        self.session = session
        self.config = config or DetectorConfig()

    def sheet(self, image_HWC: np.ndarray) -> Sheet:
        return make_sheet(image_HWC, self.config)

    def __call__(self, sheet: Sheet, clock: StageClock) -> np.ndarray:
        """Corners (Q, 4, 2) of each line on the sheet, clockwise from top left."""
        with clock.stage("pre"):
            pixels_1CHW = to_planes(resize_for_graph(sheet.image, self.config))
        with clock.stage("run"):
            [name] = self.session.input_names
            outputs = self.session.run({name: torch.from_numpy(pixels_1CHW)})
        with clock.stage("post"):
            probability_HW = next(iter(outputs.values()))[0, 0].numpy()
            return find_quads(probability_HW, sheet.image.shape[:2], self.config)


def make_sheet(image_HWC: np.ndarray, config: DetectorConfig) -> Sheet:
    """Brings the sides into bounds and pads very wide pictures."""
    height, width = image_HWC.shape[:2]
    sheet_HWC = _within_bounds(image_HWC, config)
    scale_x, scale_y = width / sheet_HWC.shape[1], height / sheet_HWC.shape[0]
    top = _bar_height(sheet_HWC.shape[0], sheet_HWC.shape[1], config)
    if top:
        sheet_HWC = cv2.copyMakeBorder(sheet_HWC, top, top, 0, 0, cv2.BORDER_CONSTANT, value=0)
    return Sheet(sheet_HWC, scale_x, scale_y, top)


def resize_for_graph(image_HWC: np.ndarray, config: DetectorConfig) -> np.ndarray:
    """Enlarges small pictures within the bounds; both sides become multiples of the stride."""
    height, width = image_HWC.shape[:2]
    return _resize_to_stride(image_HWC, _enlargement(height, width, config))


def _enlargement(height: int, width: int, config: DetectorConfig) -> float:
    ratio = config.short_side / min(height, width)
    if config.max_enlargement is not None:
        ratio = min(ratio, config.max_enlargement)
    if config.max_enlarged_px is not None:
        ratio = min(ratio, math.sqrt(config.max_enlarged_px / (height * width)))
    return max(1.0, ratio)


def to_planes(image_HWC: np.ndarray) -> np.ndarray:
    """RGB bytes to the graph's 1 x BGR x H x W in -1..1."""
    planes = [cv2.LUT(plane_HW, TO_UNIT) for plane_HW in cv2.split(image_HWC)[::-1]]
    return np.stack(planes)[None]


def find_quads(
    probability_HW: np.ndarray, sheet_size: tuple[int, int], config: DetectorConfig
) -> np.ndarray:
    """Corners [Q, 4, 2] on a sheet of (height, width)."""
    scale_xy = np.array(sheet_size[::-1]) / np.array(probability_HW.shape[::-1])
    mask_HW = cv2.dilate((probability_HW > config.threshold).astype(np.uint8), np.ones((2, 2)))
    contours, _ = cv2.findContours(mask_HW, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    boxes = [_box(contour, probability_HW, config) for contour in contours[: config.max_boxes]]
    quads = [_on_sheet(box, scale_xy, sheet_size) for box in boxes if box is not None]
    kept = [quad for quad in quads if _is_large_enough(quad)]
    return np.array(kept, np.float32).reshape(-1, 4, 2)


def _within_bounds(image_HWC: np.ndarray, config: DetectorConfig) -> np.ndarray:
    if max(image_HWC.shape[:2]) > config.max_side:
        image_HWC = _resize_to_stride(image_HWC, config.max_side / max(image_HWC.shape[:2]))
    short_side, long_side = sorted(image_HWC.shape[:2])
    if short_side < config.min_side:
        # A sliver must not grow past the longest side: its bars would be as large again.
        ratio = min(config.min_side / short_side, config.max_side / long_side)
        image_HWC = _resize_to_stride(image_HWC, ratio)
    return image_HWC


def _resize_to_stride(image_HWC: np.ndarray, ratio: float) -> np.ndarray:
    sides = (int(side * ratio) for side in image_HWC.shape[:2])
    height, width = (max(round(side / STRIDE), 1) * STRIDE for side in sides)
    return cv2.resize(image_HWC, (width, height))


def _bar_height(height: int, width: int, config: DetectorConfig) -> int:
    if height > config.min_side and width / height <= config.max_aspect:
        return 0
    padded = max(int(width / config.max_aspect), config.min_side) * 2
    return abs(padded - height) // 2


def _box(
    contour: np.ndarray, probability_HW: np.ndarray, config: DetectorConfig
) -> np.ndarray | None:
    """The grown rectangle around a contour, None if it is noise."""
    rectangle = cv2.minAreaRect(contour)
    if min(rectangle[1]) < MIN_SIDE_PX:
        return None
    corners_42 = order_corners(cv2.boxPoints(rectangle))
    if _mean_inside(probability_HW, corners_42) < config.box_threshold:
        return None
    grown = cv2.minAreaRect(_grow(corners_42, config.unclip_ratio))
    if min(grown[1]) < MIN_SIDE_PX + 2:
        return None
    return order_corners(cv2.boxPoints(grown))


def order_corners(corners_42: np.ndarray) -> np.ndarray:
    """Top left, top right, bottom right, bottom left: the two leftmost first, each pair by y."""
    by_x = corners_42[np.argsort(corners_42[:, 0], kind="stable")]
    left, right = by_x[:2], by_x[2:]
    top_left, bottom_left = left[np.argsort(left[:, 1], kind="stable")]
    top_right, bottom_right = right[np.argsort(right[:, 1], kind="stable")]
    return np.array([top_left, top_right, bottom_right, bottom_left], np.float32)


def _mean_inside(probability_HW: np.ndarray, corners_42: np.ndarray) -> float:
    """Mean probability over the polygon's pixels."""
    limit = np.array(probability_HW.shape[::-1]) - 1
    x0, y0 = np.clip(np.floor(corners_42.min(0)).astype(int), 0, limit)
    x1, y1 = np.clip(np.ceil(corners_42.max(0)).astype(int), 0, limit)
    mask_HW = np.zeros((y1 - y0 + 1, x1 - x0 + 1), np.uint8)
    cv2.fillPoly(mask_HW, [(corners_42 - np.array((x0, y0), np.float32)).astype(np.int32)], 1)
    return cv2.mean(probability_HW[y0 : y1 + 1, x0 : x1 + 1], mask_HW)[0]


def _grow(corners_42: np.ndarray, ratio: float) -> np.ndarray:
    """Moves the outline outwards by area * ratio / perimeter."""
    x, y = corners_42.astype(np.float64).T
    area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    perimeter = np.hypot(x - np.roll(x, -1), y - np.roll(y, -1)).sum()
    offset = pyclipper.PyclipperOffset()
    offset.AddPath(corners_42, pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    return np.concatenate([np.array(p) for p in offset.Execute(area * ratio / perimeter)])


def _on_sheet(box_42: np.ndarray, scale_xy: np.ndarray, sheet_size: tuple[int, int]) -> np.ndarray:
    """Whole pixels of the sheet, inside it."""
    height, width = sheet_size
    corners_42 = order_corners(np.round(box_42 * scale_xy))
    return np.clip(corners_42, 0, (width - 1, height - 1)).astype(np.float32)


def _is_large_enough(quad_42: np.ndarray) -> bool:
    width = np.linalg.norm(quad_42[0] - quad_42[1])
    height = np.linalg.norm(quad_42[0] - quad_42[3])
    return int(width) > MIN_SIDE_PX and int(height) > MIN_SIDE_PX
