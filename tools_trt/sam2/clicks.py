"""Prompts of a video session, beyond what a picture's are: inside the frame, added to, or absent.

Shapes: B = objects; P = point slots; H, W = frame; h, w = mask prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pixelis_fast.tools_trt.models.sam2_config import Sam2Config
from pixelis_fast.tools_trt.models.sam2_prompts import NO_POINT, empty_mask
from pixelis_fast.tools_trt.results import ToolInputError
from pixelis_fast.tools_trt.sam2.prompt import Prompt

NO_CLICKS = 2
"""A frame without a prompt is decoded with so many slots of no point, as in training."""


def clicks_on(
    size: tuple[int, int],
    points_px: Sequence[Sequence[float]],
    labels: Sequence[int],
    *,
    box_px: Sequence[float] | None,
) -> Prompt:
    """The prompt; ToolInputError unless all of it lies in a frame of `size` (H, W)."""
    height, width = size
    for point in points_px:
        if len(point) != 2 or not (0 <= point[0] <= width and 0 <= point[1] <= height):
            raise ToolInputError(f"point: expected (x, y) in {width}x{height}, got {tuple(point)}")
    if box_px is None:
        return Prompt(tuple((x, y) for x, y in points_px), tuple(labels))
    if len(box_px) != 4 or not (
        0 <= box_px[0] < box_px[2] <= width and 0 <= box_px[1] < box_px[3] <= height
    ):
        raise ToolInputError(
            f"box: expected (x0, y0, x1, y1) with x0 < x1 and y0 < y1 in {width}x{height}, got "
            f"{tuple(box_px)}"
        )
    x0, y0, x1, y1 = box_px
    return Prompt(tuple((x, y) for x, y in points_px), tuple(labels), (x0, y0, x1, y1))


def joined(earlier: Prompt | None, later: Prompt) -> Prompt:
    """Clicks added to those of before; a box comes first or not at all."""
    if earlier is None:
        return later
    if later.box_px is not None:
        raise ToolInputError(f"box: expected before any click of its frame, got {later.box_px}")
    points, labels = earlier.points_px + later.points_px, earlier.labels + later.labels
    return Prompt(points, labels, earlier.box_px)


def is_ambiguous(clicks: Prompt) -> bool:
    """One click, whatever mask it corrects: the best-scored candidate counts."""
    return len(clicks.points_px) <= 1 and clicks.box_px is None


def no_clicks(config: Sam2Config, objects: int, *, device: torch.device) -> dict[str, Tensor]:
    """The decoder's inputs for objects that are only followed."""
    mask_B1hw, has_mask_B1 = empty_mask(config, objects, device=device)
    return {
        "points_BP2": torch.zeros(objects, NO_CLICKS, 2, device=device),
        "labels_BP": torch.full((objects, NO_CLICKS), NO_POINT, device=device),
        "mask_B1hw": mask_B1hw,
        "has_mask_B1": has_mask_B1,
    }


def drawn_mask(mask_HW: np.ndarray) -> np.ndarray:
    """Any size, of bool or integers: what is not zero belongs to the object."""
    mask_HW = np.asarray(mask_HW)
    if mask_HW.ndim != 2 or 0 in mask_HW.shape or mask_HW.dtype.kind not in "bui":
        raise ToolInputError(
            f"mask: expected (H, W) of bool or integers, got {mask_HW.shape} of {mask_HW.dtype}"
        )
    return mask_HW != 0
