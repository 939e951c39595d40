"""Dense optical flow between two aligned patches, and a mask carried along it.

DIS flow both ways: where the two disagree, pixels came out of cover or were guessed.

Shapes: h, w = patch.
"""

from __future__ import annotations

import cv2
import numpy as np

FLOW_AGREES_PX = 2.0


def carry_mask(
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
