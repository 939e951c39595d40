"""Tracking without weights: find the shift, carry the mask along dense flow, cut its border anew.

Per frame: masked correlation with the last and the first look gives a coarse shift; DIS optical
flow on the aligned crops carries the mask; GrabCut solves a narrow band around its border. The
score is how much the colours still match the first frame x how much of the flow agrees forwards
and backwards. Below LOST the object is lost and the whole next frame is searched for its first
look. Colour and texture only: look-alikes and full turns defeat it, hence `degraded`.

Shapes: H, W = frame; h, w = working frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from pixelis_fast.tools_trt.classical_segment import ClassicalSegment
from pixelis_fast.tools_trt.grabcut import PxBox, color_histogram, mask_box, refine

OBJECT_SIDE = 64
"""Working pixels of the object's longer side."""
BORDER_SIDE = 192
"""Working pixels of the window in which the border is cut."""
SCALES = (0.85, 1.0, 1.18)
"""Sizes the look is searched at; a track is visited sparsely, so sizes jump."""
LOST = 0.25
FOUND_AGAIN = 0.6
"""Correlation that a lost object's first look must reach somewhere."""
FLOW_AGREES_PX = 2.0
MIN_BOX_SHARE = 0.25
"""A first mask that fills less of the prompt's box is not its object: the box itself is used."""


@dataclass(frozen=True)
class Look:
    """A patch with the object on it, at working size."""

    patch: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Match:
    """Where a look was found."""

    x: int
    y: int
    scale: float
    correlation: float


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
                mask_HW, score = _first_mask(frame_HWC, box_px)
                follower = Follower(frame_HWC, mask_HW)
                yield mask_HW, score
            else:
                yield follower.step(frame_HWC)


def _first_mask(frame_HWC: np.ndarray, box_px: PxBox) -> tuple[np.ndarray, float]:
    mask_HW, score = ClassicalSegment().segment(frame_HWC, box_px=box_px)
    x0, y0, x1, y1 = box_px
    if mask_HW.sum() < MIN_BOX_SHARE * (x1 - x0) * (y1 - y0):
        mask_HW = np.zeros(frame_HWC.shape[:2], dtype=bool)
        mask_HW[y0:y1, x0:x1] = True
    return mask_HW, score


class Follower:
    """The object's last and first look, and where it was."""

    def __init__(self, frame_HWC: np.ndarray, mask_HW: np.ndarray) -> None:
        x0, y0, x1, y1 = mask_box(mask_HW)
        self.scale = min(1.0, OBJECT_SIDE / max(x1 - x0, y1 - y0))
        self.colors = color_histogram(frame_HWC[mask_HW])
        self._remember(self._reduce(frame_HWC), self._reduce_mask(mask_HW))
        self.first_look = self.look

    def step(self, frame_HWC: np.ndarray) -> tuple[np.ndarray | None, float]:
        """(mask_HW or None, score) in the next visited frame."""
        small_hwC = self._reduce(frame_HWC)
        match = self._find(small_hwC)
        carried_hw, agreement = self._carry(small_hwC, match)
        if not carried_hw.any():
            return self._lose(0.0)
        mask_HW = self._cut_border(frame_HWC, carried_hw)
        if not mask_HW.any():
            return self._lose(0.0)
        alike = float(np.sqrt(self.colors * color_histogram(frame_HWC[mask_HW])).sum())
        score = alike * agreement * max(match.correlation, 0.0) ** 0.5
        if score < LOST or (self.is_lost and match.correlation < FOUND_AGAIN):
            return self._lose(score)
        self._remember(small_hwC, self._reduce_mask(mask_HW))
        return mask_HW, score

    def _remember(self, small_hwC: np.ndarray, mask_hw: np.ndarray) -> None:
        self.small_hwC, self.mask_hw = small_hwC, mask_hw
        self.box = _grown(mask_box(mask_hw), 0.1, small_hwC.shape[:2])
        self.look = Look(_part(small_hwC, self.box), _part(mask_hw, self.box))
        self.is_lost = False

    def _lose(self, score: float) -> tuple[None, float]:
        self.is_lost = True
        return None, score

    def _find(self, small_hwC: np.ndarray) -> Match:
        """The better of the last and the first look: near the last place, or anywhere if lost."""
        size = small_hwC.shape[:2]
        area = (0, 0, size[1], size[0]) if self.is_lost else _grown(self.box, 1.0, size)
        looks = (self.first_look,) if self.is_lost else (self.look, self.first_look)
        matches = [_search(small_hwC, look, area, s) for look in looks for s in SCALES]
        return max(matches, key=lambda match: match.correlation)

    def _carry(self, small_hwC: np.ndarray, match: Match) -> tuple[np.ndarray, float]:
        """(mask in the working frame, share of its flow that agrees both ways)."""
        look = self.first_look if self.is_lost else self.look
        height, width = look.mask.shape
        size = max(round(width * match.scale), 8), max(round(height * match.scale), 8)
        before = cv2.resize(look.patch, size)
        mask_before = cv2.resize(look.mask.astype(np.float32), size)
        centre_x, centre_y = match.x, match.y
        left, top = centre_x - size[0] // 2, centre_y - size[1] // 2
        after = _padded(small_hwC, (left, top, left + size[0], top + size[1]))
        mask_after, agreement = _flow_mask(before, after, mask_before)
        carried_hw = np.zeros(small_hwC.shape[:2], dtype=bool)
        _paste(carried_hw, mask_after, left=left, top=top)
        return carried_hw, agreement

    def _cut_border(self, frame_HWC: np.ndarray, carried_hw: np.ndarray) -> np.ndarray:
        height, width = frame_HWC.shape[:2]
        carried_HW = cv2.resize(carried_hw.astype(np.float32), (width, height)) > 0.5
        cut_HW = refine(frame_HWC, carried_HW, side=BORDER_SIDE)
        # A cut that changes the size by a third has leaked or collapsed, which flow does not.
        grown = cut_HW.sum() / max(int(carried_HW.sum()), 1)
        return cut_HW if 0.67 < grown < 1.5 else carried_HW

    def _reduce(self, frame_HWC: np.ndarray) -> np.ndarray:
        height, width = frame_HWC.shape[:2]
        size = max(round(width * self.scale), 16), max(round(height * self.scale), 16)
        return cv2.resize(frame_HWC, size, interpolation=cv2.INTER_AREA)

    def _reduce_mask(self, mask_HW: np.ndarray) -> np.ndarray:
        small = self._reduce(mask_HW.astype(np.float32)) > 0.5
        return small if small.any() else self._reduce(mask_HW.astype(np.float32)) > 0


def _search(small_hwC: np.ndarray, look: Look, area: PxBox, scale: float) -> Match:
    """Best masked correlation of a look, resized by `scale`, inside an area."""
    height, width = (max(round(n * scale), 8) for n in look.mask.shape)
    patch = cv2.resize(look.patch, (width, height)).astype(np.float32)
    weight = cv2.resize(look.mask.astype(np.float32), (width, height))[..., None].repeat(3, 2)
    # The ground around the object helps a little: it keeps the outline in place.
    weight = 0.1 + 0.9 * weight
    x0, y0, x1, y1 = area
    pad_x, pad_y = width // 2, height // 2
    field = _padded(small_hwC, (x0 - pad_x, y0 - pad_y, x1 + pad_x, y1 + pad_y))
    found = cv2.matchTemplate(field.astype(np.float32), patch, cv2.TM_CCOEFF_NORMED, mask=weight)
    found = np.nan_to_num(found, nan=-1.0, posinf=-1.0, neginf=-1.0)
    row, column = np.unravel_index(int(found.argmax()), found.shape)
    return Match(x0 + int(column), y0 + int(row), scale, float(min(found[row, column], 1.0)))


def _flow_mask(
    before: np.ndarray, after: np.ndarray, mask_before: np.ndarray
) -> tuple[np.ndarray, float]:
    """The mask carried along the flow, and the share of it that agrees both ways."""
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (before, after)]
    forwards, backwards = _flow(grey[0], grey[1]), _flow(grey[1], grey[0])
    height, width = mask_before.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    from_x, from_y = x + backwards[..., 0], y + backwards[..., 1]
    carried = cv2.remap(mask_before, from_x, from_y, cv2.INTER_LINEAR) > 0.5
    there = cv2.remap(forwards, from_x, from_y, cv2.INTER_LINEAR)
    off = np.linalg.norm(there + backwards, axis=2)
    agrees = float((off[carried] < FLOW_AGREES_PX).mean()) if carried.any() else 0.0
    return carried, agrees


def _flow(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Dense flow (h, w, 2) in pixels; DIS needs 16 pixels a side, smaller crops are padded."""
    height, width = before.shape
    pad = (0, max(16 - height, 0), 0, max(16 - width, 0))
    first = cv2.copyMakeBorder(before, *pad, cv2.BORDER_REPLICATE)
    second = cv2.copyMakeBorder(after, *pad, cv2.BORDER_REPLICATE)
    flow = np.zeros((*first.shape, 2), np.float32)
    cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(first, second, flow)
    return flow[:height, :width]


def _grown(box: PxBox, share: float, size: tuple[int, int]) -> PxBox:
    x0, y0, x1, y1 = box
    pad_x, pad_y = int((x1 - x0) * share) + 2, int((y1 - y0) * share) + 2
    return (
        max(x0 - pad_x, 0),
        max(y0 - pad_y, 0),
        min(x1 + pad_x, size[1]),
        min(y1 + pad_y, size[0]),
    )


def _part(image: np.ndarray, box: PxBox) -> np.ndarray:
    return image[box[1] : box[3], box[0] : box[2]]


def _padded(image: np.ndarray, box: PxBox) -> np.ndarray:
    """A crop that may stick out of the picture; the edge repeats."""
    height, width = image.shape[:2]
    rows = np.clip(np.arange(box[1], box[3]), 0, height - 1)
    columns = np.clip(np.arange(box[0], box[2]), 0, width - 1)
    return np.ascontiguousarray(image[rows][:, columns])


def _paste(target_hw: np.ndarray, mask: np.ndarray, *, left: int, top: int) -> None:
    """Writes a mask at a position; what sticks out is cut."""
    height, width = target_hw.shape
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + mask.shape[1], width), min(top + mask.shape[0], height)
    if x0 < x1 and y0 < y1:
        target_hw[y0:y1, x0:x1] = mask[y0 - top : y1 - top, x0 - left : x1 - left]
