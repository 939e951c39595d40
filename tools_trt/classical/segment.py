"""Segmentation without weights: one GrabCut from a box, several seeded ones from a point.

A point says nothing of the object's size, so the cut is tried at seven sizes around it and the
most convincing one (`grabcut.confidence`, less what runs into the search limit) is refined. It
finds regions of distinct colour with a visible border; it does not know what an object is, and
says so through `degraded`.

Shapes: H, W = picture; h, w = working window.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pixelis_fast.tools_trt.classical.grabcut import (
    PxBox,
    Window,
    confidence,
    cut_window,
    mask_box,
    one_object,
    refine,
    solve,
)

BOX_SIDE = 128
"""Working pixels of a box's first cut: on the photographs of `bench/regions.py --ablate` 96 brings
the mean IoU from 0.977 down to 0.969, on drawn objects from 0.986 up to 0.989."""
BORDER_SIDE = 192
"""Working pixels of the final cut. Drawn objects of that benchmark reach 0.986 mean IoU; 96 gives
0.980 and 256 gives 0.995; on photographs 96 gives 0.975, 192 and 256 give 0.977."""
POINT_SIDE = 72
"""Working pixels while sizes are compared; the chosen one is refined at BORDER_SIDE."""
RADII = (0.04, 0.07, 0.12, 0.2, 0.33, 0.55, 0.9)
"""Tried object radii, as shares of the picture's shorter side."""
CERTAIN, LIKELY, LIMIT = 0.2, 0.7, 1.3
"""In radii: inside is object, inside is probably object, outside is ground."""


@dataclass(frozen=True)
class Candidate:
    mask: np.ndarray
    score: float


class ClassicalSegment:
    """The segment engine that needs no weights."""

    name = "classical:grabcut"
    degraded: str | None = "no SAM 2 weights: colour and edges only, no notion of objects"

    def segment(
        self,
        image_HWC: np.ndarray,
        *,
        point_px: tuple[int, int] | None = None,
        box_px: PxBox | None = None,
        key: str | None = None,
    ) -> tuple[np.ndarray, float]:
        """(mask_HW of bool, confidence 0..1). Nothing is cached, so `key` names nothing here."""
        if (point_px is None) == (box_px is None):
            raise ValueError(f"prompt: expected a point or a box, got {point_px} and {box_px}")
        found = _from_box(image_HWC, box_px) if box_px else _from_point(image_HWC, point_px)
        return found.mask, found.score


def cut_box(image_HWC: np.ndarray, box_px: PxBox) -> tuple[Window, np.ndarray]:
    """(working window, mask in it) of a box's object, its border no finer than the window."""
    window = cut_window(image_HWC, box_px, margin=0.2, side=BOX_SIDE)
    trimap_hw = _box_trimap(window, box_px)
    return window, one_object(solve(window.image, trimap_hw, iterations=3))


def _from_box(image_HWC: np.ndarray, box_px: PxBox) -> Candidate:
    window, mask_hw = cut_box(image_HWC, box_px)
    score = confidence(window.image, mask_hw)
    mask_HW = window.enlarge(mask_hw)
    if window.image.shape[0] >= window.box[3] - window.box[1]:
        return Candidate(mask_HW, score)
    finer_HW = refine(image_HWC, mask_HW, side=BORDER_SIDE)
    # On a flat picture the finer cut finds nothing: the box's own cut stands.
    return Candidate(finer_HW if finer_HW.any() else mask_HW, score)


def _box_trimap(window: Window, box_px: PxBox) -> np.ndarray:
    height, width = window.image.shape[:2]
    left, top = (int(np.floor(v)) for v in window.to_window(box_px[0], box_px[1]))
    right, bottom = (int(np.ceil(v)) for v in window.to_window(box_px[2], box_px[3]))
    trimap_hw = np.full((height, width), cv2.GC_BGD, np.uint8)
    trimap_hw[top:bottom, left:right] = cv2.GC_PR_FGD
    if not (trimap_hw == cv2.GC_BGD).any():
        # The box is the whole picture: its corners are the only guess at the ground.
        y, x = np.mgrid[:height, :width]
        round_hw = (2 * x / (width - 1) - 1) ** 2 + (2 * y / (height - 1) - 1) ** 2
        trimap_hw[round_hw > 1] = cv2.GC_PR_BGD
    return trimap_hw


def _from_point(image_HWC: np.ndarray, point_px: tuple[int, int] | None) -> Candidate:
    assert point_px is not None
    short_side = min(image_HWC.shape[:2])
    tried = [_at_radius(image_HWC, point_px, max(share * short_side, 3.0)) for share in RADII]
    best = max(tried, key=lambda candidate: candidate.score)
    mask_HW = refine(image_HWC, best.mask, side=BORDER_SIDE)
    if not mask_HW.any():
        return best
    window = cut_window(image_HWC, mask_box(mask_HW), margin=0.2, side=BORDER_SIDE)
    return Candidate(mask_HW, confidence(window.image, window.reduce(mask_HW)))


def _at_radius(image_HWC: np.ndarray, point_px: tuple[int, int], radius: float) -> Candidate:
    x, y = point_px[0] + 0.5, point_px[1] + 0.5
    around = _square(x, y, radius * (LIMIT + 0.2), image_HWC.shape[:2])
    window = cut_window(image_HWC, around, margin=0.0, side=POINT_SIDE)
    distance_hw = _distance_to(window, x, y) / radius
    trimap_hw = np.full(distance_hw.shape, cv2.GC_PR_BGD, np.uint8)
    trimap_hw[distance_hw > LIMIT] = cv2.GC_BGD
    trimap_hw[distance_hw < LIKELY] = cv2.GC_PR_FGD
    trimap_hw[distance_hw < CERTAIN] = cv2.GC_FGD
    column, row = (int(v) for v in window.to_window(x, y))
    mask_hw = one_object(solve(window.image, trimap_hw, iterations=1), at=(column, row))
    rim_hw = (distance_hw > LIMIT - 0.1) & (distance_hw < LIMIT)
    cut_off = float(mask_hw[rim_hw].mean()) if rim_hw.any() else 0.0
    score = confidence(window.image, mask_hw) * (1.0 - cut_off)
    return Candidate(window.enlarge(mask_hw), score)


def _square(x: float, y: float, half: float, size: tuple[int, int]) -> PxBox:
    height, width = size
    left, top = max(int(x - half), 0), max(int(y - half), 0)
    return left, top, min(int(x + half) + 1, width), min(int(y + half) + 1, height)


def _distance_to(window: Window, x: float, y: float) -> np.ndarray:
    """Distance of every working pixel to a position, in pixels of the picture."""
    height, width = window.image.shape[:2]
    x0, y0, x1, y1 = window.box
    across = x0 + (np.arange(width) + 0.5) * (x1 - x0) / width - x
    down = y0 + (np.arange(height) + 0.5) * (y1 - y0) / height - y
    return np.hypot(down[:, None], across[None, :])
