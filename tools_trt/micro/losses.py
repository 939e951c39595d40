"""What masks, quality scores and objectness are trained on: focal 20, dice 1, quality 1 and
presence 1, the weights of "SAM 2: Segment Anything in Images and Videos" (arXiv 2408.00714).

Of the three masks that stand for the readings of an ambiguous prompt only the best one learns. The
fourth, which answers unambiguous prompts, learns from every prompt; in the paper it does not learn
from single points.

Masks are compared at the decoder's resolution with the share of each cell that the object covers:
where logits learn shares, the enlarged mask's border lies between the cells.

B = objects, M = 4 masks (the unambiguous one first), h, w = the decoder's masks, S = side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

FOCAL_WEIGHT, DICE_WEIGHT, QUALITY_WEIGHT, PRESENCE_WEIGHT = 20.0, 1.0, 1.0, 1.0
FOCAL_ALPHA = 0.25


@dataclass(frozen=True)
class Losses:
    total: Tensor
    iou: Tensor
    """Mean over present objects, of the mask that would be chosen by its predicted quality."""


def mask_losses(
    masks_BMhw: Tensor, qualities_BM: Tensor, presence_B1: Tensor, *, truth_BSS: Tensor
) -> Losses:
    """Losses of one answer; an object that is not there teaches only its absence."""
    truth_B1hw = reduced(truth_BSS, masks_BMhw.shape[-1])
    entropy_BM, overlap_BM = focal(masks_BMhw, truth_B1hw), dice(masks_BMhw, truth_B1hw)
    cost_BM = FOCAL_WEIGHT * entropy_BM + DICE_WEIGHT * overlap_BM
    iou_BM = iou(masks_BMhw.detach(), truth_B1hw)
    quality_BM = (qualities_BM.float() - iou_BM).abs()
    object_B = cost_BM[:, 0] + cost_BM[:, 1:].min(1).values + QUALITY_WEIGHT * quality_BM.mean(1)
    is_there_B = truth_BSS.flatten(1).any(1).float()
    present = functional.binary_cross_entropy_with_logits(presence_B1[:, 0].float(), is_there_B)
    there = is_there_B.sum().clamp(min=1)
    total = (object_B * is_there_B).sum() / there + PRESENCE_WEIGHT * present
    best_B1 = qualities_BM[:, 1:].argmax(1, keepdim=True) + 1
    reached_B = iou_BM.gather(1, best_B1)[:, 0]
    return Losses(total, (reached_B * is_there_B).sum() / there)


def reduced(truth_BSS: Tensor, side: int) -> Tensor:
    """(B, 1, side, side): the share of each cell that the object covers."""
    return functional.avg_pool2d(truth_BSS.float()[:, None], truth_BSS.shape[-1] // side)


def focal(logits_BMhw: Tensor, truth_B1hw: Tensor) -> Tensor:
    """(B, M). Focal loss with exponent 2; for a partly covered cell the distance to its share."""
    truth_BMhw = truth_B1hw.expand_as(logits_BMhw)
    entropy = functional.binary_cross_entropy_with_logits(logits_BMhw, truth_BMhw, reduction="none")
    apart = (torch.sigmoid(logits_BMhw) - truth_BMhw).square()
    alpha = (1 - FOCAL_ALPHA) + (2 * FOCAL_ALPHA - 1) * truth_BMhw
    return (alpha * apart * entropy).mean((2, 3))


def dice(logits_BMhw: Tensor, truth_B1hw: Tensor) -> Tensor:
    """(B, M)."""
    share_BMhw = torch.sigmoid(logits_BMhw)
    common_BM = (share_BMhw * truth_B1hw).sum((2, 3))
    both_BM = share_BMhw.sum((2, 3)) + truth_B1hw.sum((2, 3))
    return 1 - (2 * common_BM + 1) / (both_BM + 1)


def iou(logits_BMhw: Tensor, truth_B1hw: Tensor) -> Tensor:
    """(B, M) of thresholded masks."""
    found, truth = logits_BMhw > 0, truth_B1hw > 0.5
    common_BM = (found & truth).sum((2, 3)).float()
    return common_BM / (found | truth).sum((2, 3)).clamp(min=1)
