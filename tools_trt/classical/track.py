"""Tracking without weights: find the shift, carry the mask along dense flow, cut its border anew.

Per frame: masked correlation with the last look, or where that is doubtful with the first look and
other sizes too, gives a coarse shift; DIS optical flow on the aligned crops carries the mask;
GrabCut, on the colour models of the frames before, solves a narrow band around its border. The
score is how much the colours still match the first frame x how much of the flow agrees forwards
and backwards. Below LOST the object is lost and the whole next frame is searched for its first
look. Colour and texture only: look-alikes and full turns defeat it, hence `degraded`.

Shapes: H, W = frame; h, w = working frame; b = window in which the border is cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from pixelis_fast.tools_trt.classical.flow import carry_mask
from pixelis_fast.tools_trt.classical.grabcut import (
    ColorModels,
    PxBox,
    Window,
    band_trimap,
    color_histogram,
    confidence,
    cut_window,
    mask_box,
    one_object,
    resize_mask,
    solve,
)
from pixelis_fast.tools_trt.classical.look import Look, Match, best_match, find_look, padded
from pixelis_fast.tools_trt.classical.segment import cut_box
from pixelis_fast.tools_trt.pixels.shrink import shrink

OBJECT_SIDE = 64
"""Working pixels of the object's longer side."""
BORDER_SIDE = 128
"""Working pixels of the window in which the border is cut. `bench/regions.py --ablate`: objects of
72 pixels come out the same at 192, one of 216 pixels at 0.992 mean IoU instead of 0.965; the time
is within a fifth."""
SURE = 0.9
"""Correlation at which the last look is found without trying the others."""
NEAR, FAR = 0.35, 1.0
"""Reach of that first search and of the full one, as shares of the object's sides."""
LOST = 0.25
FOUND_AGAIN = 0.6
"""Correlation that a lost object's first look must reach somewhere."""
MIN_BOX_SHARE = 0.25
"""A first mask that fills less of the prompt's box is not its object: the box itself is used."""


@dataclass(frozen=True)
class Cut:
    """An object's mask in a window of the frame."""

    window: Window
    mask: np.ndarray

    @property
    def colors(self) -> np.ndarray:
        """Histogram of the object's colours."""
        return color_histogram(self.window.image[self.mask])


class ClassicalTrack:
    """The track engine that needs no weights."""

    name = "classical:dis-flow+grabcut"
    degraded: str | None = "no SAM 2 weights: colour and texture only, no notion of objects"

    def track(
        self, frames: Iterable[np.ndarray], box_px: PxBox, *, keys: Sequence[str]
    ) -> Iterator[tuple[np.ndarray | None, float]]:
        """(mask_HW or None where lost, score 0..1) per frame; the box is of the first frame."""
        follower: Follower | None = None
        for frame_HWC, _ in zip(frames, keys, strict=True):
            if follower is None:
                first, score = _first_cut(frame_HWC, box_px)
                follower = Follower(frame_HWC, first)
                yield first.window.enlarge(first.mask), score
            else:
                yield follower.step(frame_HWC)


def _first_cut(frame_HWC: np.ndarray, box_px: PxBox) -> tuple[Cut, float]:
    window, mask_bb = cut_box(frame_HWC, box_px)
    x0, y0 = window.to_window(box_px[0], box_px[1])
    x1, y1 = window.to_window(box_px[2], box_px[3])
    score = confidence(window.image, mask_bb)
    if mask_bb.sum() < MIN_BOX_SHARE * (x1 - x0) * (y1 - y0):
        mask_bb = np.zeros_like(mask_bb)
        mask_bb[round(y0) : max(round(y1), 1), round(x0) : max(round(x1), 1)] = True
    return Cut(window, mask_bb), score


class Follower:
    """The object's last and first look, and where it was."""

    def __init__(self, frame_HWC: np.ndarray, first: Cut) -> None:
        x0, y0, x1, y1 = mask_box(first.window.enlarge(first.mask))
        self.scale = min(1.0, OBJECT_SIDE / max(x1 - x0, y1 - y0))
        self.colors = first.colors
        self.models = ColorModels()
        self._remember(self._reduce(frame_HWC), first)
        self.first_look = self.look

    def step(self, frame_HWC: np.ndarray) -> tuple[np.ndarray | None, float]:
        """(mask_HW or None, score) in the next visited frame."""
        small_hwC = self._reduce(frame_HWC)
        match = self._find(small_hwC)
        carried_hw, agreement = self._carry(small_hwC, match)
        if not carried_hw.any():
            return self._lose(0.0)
        cut = self._cut_border(frame_HWC, carried_hw)
        if not cut.mask.any():
            return self._lose(0.0)
        alike = float(np.sqrt(self.colors * cut.colors).sum())
        score = alike * agreement * max(match.correlation, 0.0) ** 0.5
        if score < LOST or (self.is_lost and match.correlation < FOUND_AGAIN):
            return self._lose(score)
        self._remember(small_hwC, cut)
        return cut.window.enlarge(cut.mask), score

    def _remember(self, small_hwC: np.ndarray, cut: Cut) -> None:
        mask_hw = self._reduce_cut(cut, small_hwC.shape[:2])
        self.box = _grown(mask_box(mask_hw), 0.1, small_hwC.shape[:2])
        self.look = Look(_part(small_hwC, self.box), _part(mask_hw, self.box))
        self.is_lost = False

    def _lose(self, score: float) -> tuple[None, float]:
        self.is_lost = True
        # What was cut last may not have been the object.
        self.models = ColorModels()
        return None, score

    def _find(self, small_hwC: np.ndarray) -> Match:
        """The last look close by; in doubt the better of both looks, if lost the first anywhere."""
        size = small_hwC.shape[:2]
        if self.is_lost:
            return best_match(small_hwC, (self.first_look,), (0, 0, size[1], size[0]))
        near = find_look(small_hwC, self.look, _grown(self.box, NEAR, size), 1.0)
        if near.correlation >= SURE:
            return near
        return best_match(small_hwC, (self.look, self.first_look), _grown(self.box, FAR, size))

    def _carry(self, small_hwC: np.ndarray, match: Match) -> tuple[np.ndarray, float]:
        """(mask in the working frame, share of its flow that agrees both ways)."""
        look = self.first_look if self.is_lost else self.look
        height, width = look.mask.shape
        size = max(round(width * match.scale), 8), max(round(height * match.scale), 8)
        before = cv2.resize(look.patch, size)
        mask_before = cv2.resize(look.mask.astype(np.float32), size)
        centre_x, centre_y = match.x, match.y
        left, top = centre_x - size[0] // 2, centre_y - size[1] // 2
        after = padded(small_hwC, (left, top, left + size[0], top + size[1]))
        mask_after, agreement = carry_mask(before, after, mask_before)
        carried_hw = np.zeros(small_hwC.shape[:2], dtype=bool)
        _paste(carried_hw, mask_after, left=left, top=top)
        return carried_hw, agreement

    def _cut_border(self, frame_HWC: np.ndarray, carried_hw: np.ndarray) -> Cut:
        size = carried_hw.shape[:2]
        window = cut_window(
            frame_HWC,
            _scaled(mask_box(carried_hw), size, frame_HWC.shape[:2]),
            margin=0.2,
            side=BORDER_SIDE,
        )
        carried_bb = _window_part(carried_hw, window)
        trimap_bb = band_trimap(carried_bb, width=0.06)
        cut_bb = one_object(solve(window.image, trimap_bb, iterations=1, models=self.models))
        # A cut that changes the size by a third has leaked or collapsed, which flow does not.
        grown = cut_bb.sum() / max(int(carried_bb.sum()), 1)
        return Cut(window, cut_bb if 0.67 < grown < 1.5 else carried_bb)

    def _reduce(self, frame_HWC: np.ndarray) -> np.ndarray:
        height, width = frame_HWC.shape[:2]
        return shrink(
            frame_HWC, (max(round(width * self.scale), 16), max(round(height * self.scale), 16))
        )

    def _reduce_cut(self, cut: Cut, size: tuple[int, int]) -> np.ndarray:
        """The mask in the working frame, at least one pixel of it."""
        mask_HW = cut.window.enlarge(cut.mask)
        small_hw = resize_mask(mask_HW, (size[1], size[0]))
        if not small_hw.any():
            x0, y0, _, _ = _scaled(mask_box(mask_HW), mask_HW.shape, size)
            small_hw[min(y0, size[0] - 1), min(x0, size[1] - 1)] = True
        return small_hw


def _grown(box: PxBox, share: float, size: tuple[int, int]) -> PxBox:
    x0, y0, x1, y1 = box
    pad_x, pad_y = int((x1 - x0) * share) + 2, int((y1 - y0) * share) + 2
    return (
        max(x0 - pad_x, 0),
        max(y0 - pad_y, 0),
        min(x1 + pad_x, size[1]),
        min(y1 + pad_y, size[0]),
    )


def _scaled(box: PxBox, from_size: tuple[int, ...], to_size: tuple[int, ...]) -> PxBox:
    """A box in a picture of another (height, width), rounded outwards."""
    down, across = to_size[0] / from_size[0], to_size[1] / from_size[1]
    x0, y0, x1, y1 = box
    return int(x0 * across), int(y0 * down), math.ceil(x1 * across), math.ceil(y1 * down)


def _window_part(mask_hw: np.ndarray, window: Window) -> np.ndarray:
    """A mask of the working frame, sampled at the window's pixels."""
    down, across = (n / size for n, size in zip(mask_hw.shape, window.size, strict=True))
    x0, y0, x1, y1 = window.box
    height, width = window.image.shape[:2]
    step_x, step_y = (x1 - x0) * across / width, (y1 - y0) * down / height
    # Pixel centres lie at half: the window's first one at (0.5 step) from its left edge.
    to_small = np.array(
        [
            [step_x, 0, x0 * across + 0.5 * step_x - 0.5],
            [0, step_y, y0 * down + 0.5 * step_y - 0.5],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    source = mask_hw.astype(np.float32)
    return cv2.warpAffine(source, to_small, (width, height), flags=flags) > 0.5


def _part(image: np.ndarray, box: PxBox) -> np.ndarray:
    return image[box[1] : box[3], box[0] : box[2]]


def _paste(target_hw: np.ndarray, mask: np.ndarray, *, left: int, top: int) -> None:
    """Writes a mask at a position; what sticks out is cut."""
    height, width = target_hw.shape
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + mask.shape[1], width), min(top + mask.shape[0], height)
    if x0 < x1 and y0 < y1:
        target_hw[y0:y1, x0:x1] = mask[y0 - top : y1 - top, x0 - left : x1 - left]
