"""Prompts drawn from true masks: points inside, jittered boxes, noisy masks, corrective clicks.

Everything is batched over objects and drawn from one torch generator.

B = objects, each with its own prompt.  S = side of the frame, P = point slots, h, w = low
resolution (S / 4).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from pixelis_fast.tools_trt.models.sam2_prompts import (
    BOX_END,
    BOX_START,
    EMPTY,
    NEGATIVE,
    NO_POINT,
    POSITIVE,
)

SLOTS = 5
"""Two corners of a box or one point, corrective clicks, and the NO_POINT that follows them."""
BOX_JITTER = 0.1
"""Deviation of a corner, as a share of the box's sides."""
MASK_LOGIT = 10.0
"""Magnitude of a mask prompt made from a binary mask."""


@dataclass(frozen=True)
class Prompts:
    """What the decoder is given."""

    points_BP2: Tensor
    labels_BP: Tensor
    mask_B1hw: Tensor
    has_mask_B1: Tensor


def nothing(count: int, *, side: int, device: torch.device) -> Prompts:
    """No point but two NO_POINTs, as on a frame to which an object is tracked."""
    labels_BP = torch.full((count, SLOTS), EMPTY, device=device)
    labels_BP[:, :2] = NO_POINT
    return Prompts(
        torch.zeros(count, SLOTS, 2, device=device),
        labels_BP,
        torch.zeros(count, 1, side // 4, side // 4, device=device),
        torch.zeros(count, 1, device=device),
    )


def points(masks_BSS: Tensor, random: torch.Generator) -> Prompts:
    """A point anywhere inside each object."""
    prompts = nothing(len(masks_BSS), side=masks_BSS.shape[-1], device=masks_BSS.device)
    prompts.points_BP2[:, 0] = sample(masks_BSS.float(), random)
    prompts.labels_BP[:, 0] = POSITIVE
    return prompts


def boxes(masks_BSS: Tensor, random: torch.Generator | None) -> Prompts:
    """Each object's box, its corners moved at random; exact without a generator."""
    side = masks_BSS.shape[-1]
    prompts = nothing(len(masks_BSS), side=side, device=masks_BSS.device)
    corners_B4 = bounds(masks_BSS)
    if random is not None:
        sides_B4 = (corners_B4[:, 2:] - corners_B4[:, :2]).repeat(1, 2)
        noise_B4 = torch.randn(corners_B4.shape, generator=random, device=corners_B4.device)
        moved_B4 = corners_B4 + noise_B4.clamp(-2, 2) * BOX_JITTER * sides_B4 * 0.5
        corners_B4 = moved_B4.clamp(0, side)
    prompts.points_BP2[:, :2] = corners_B4.view(-1, 2, 2)
    corners = torch.tensor([BOX_START, BOX_END, NO_POINT])
    prompts.labels_BP[:, :3] = corners.to(masks_BSS.device)
    return prompts


def masks(masks_BSS: Tensor, random: torch.Generator) -> Prompts:
    """Each object's mask, grown or shrunk by up to two low-resolution pixels.

    Half of them without any point's slot: a picture's mask prompt has none, a frame's has.
    """
    side = masks_BSS.shape[-1]
    prompts = nothing(len(masks_BSS), side=side, device=masks_BSS.device)
    prompts.labels_BP[::2] = EMPTY
    low_B1hw = functional.avg_pool2d(masks_BSS.float()[:, None], 4)
    grown = int(torch.randint(-2, 3, (), generator=random))
    if grown > 0:
        low_B1hw = functional.max_pool2d(low_B1hw, 2 * grown + 1, 1, grown)
    elif grown < 0:
        low_B1hw = -functional.max_pool2d(-low_B1hw, 1 - 2 * grown, 1, -grown)
    mask_B1hw = (low_B1hw * 2 - 1) * MASK_LOGIT
    return replace(prompts, mask_B1hw=mask_B1hw, has_mask_B1=torch.ones_like(prompts.has_mask_B1))


def corrected(
    prompts: Prompts, logits_B1hw: Tensor, masks_BSS: Tensor, random: torch.Generator
) -> Prompts:
    """One more click in each object's region of error, and the answer so far as mask prompt."""
    answer_B1hw = logits_B1hw.detach().float()
    truth_Bhw = functional.avg_pool2d(masks_BSS.float()[:, None], 4)[:, 0] > 0.5
    wrong_Bhw = ((answer_B1hw[:, 0] > 0) != truth_Bhw).float()
    # A perfect answer gets a further point inside; an object smaller than a pixel any point.
    is_right_B11 = wrong_Bhw.sum((1, 2), keepdim=True) == 0
    weight_Bhw = torch.where(is_right_B11, truth_Bhw.float(), wrong_Bhw) + 1e-6
    low_B2 = sample(weight_Bhw, random)
    column_B, row_B = low_B2.long().unbind(1)
    is_inside_B = truth_Bhw[torch.arange(len(truth_Bhw)), row_B, column_B]
    points_BP2, labels_BP = prompts.points_BP2.clone(), prompts.labels_BP.clone()
    slot_B = (labels_BP >= NEGATIVE).sum(1)
    if int(slot_B.max()) > SLOTS - 2:
        raise ValueError(f"prompts: expected two free slots among {SLOTS}, got fewer")
    rows = torch.arange(len(labels_BP))
    points_BP2[rows, slot_B] = low_B2 * 4
    labels_BP[rows, slot_B] = torch.where(is_inside_B, POSITIVE, NEGATIVE)
    labels_BP[rows, slot_B + 1] = NO_POINT
    return Prompts(points_BP2, labels_BP, answer_B1hw, torch.ones_like(prompts.has_mask_B1))


def sample(weight_BHW: Tensor, random: torch.Generator) -> Tensor:
    """(B, 2): x, y inside a pixel drawn with these weights."""
    # A draw from the running sum: torch.multinomial draws a number for every pixel.
    sums_BN = weight_BHW.flatten(1).double().cumsum(1)
    level_B1 = torch.rand(len(sums_BN), 1, generator=random, dtype=torch.float64) * sums_BN[:, -1:]
    flat_B = torch.searchsorted(sums_BN, level_B1, right=True)[:, 0]
    flat_B = flat_B.clamp(max=sums_BN.shape[1] - 1)
    row_B, column_B = flat_B // weight_BHW.shape[2], flat_B % weight_BHW.shape[2]
    return torch.stack([column_B, row_B], 1).float() + 0.5


def bounds(masks_BSS: Tensor) -> Tensor:
    """(B, 4): left, top, right, bottom of masks that are not empty, end exclusive."""
    columns_BS, rows_BS = masks_BSS.any(1), masks_BSS.any(2)
    side = masks_BSS.shape[-1]
    ends = []
    for line_BS in (columns_BS, rows_BS):
        first_B = line_BS.float().argmax(1)
        last_B = side - line_BS.flip(1).float().argmax(1)
        ends.append((first_B, last_B))
    (left, right), (top, bottom) = ends
    return torch.stack([left, top, right, bottom], 1).float()


def chosen(kinds_B: Tensor, *options: Prompts) -> Prompts:
    """Of several prompts for each object, the one whose number stands in kinds_B."""
    rows = torch.arange(len(kinds_B))

    def pick(*values: Tensor) -> Tensor:
        return torch.stack(values)[kinds_B, rows]

    return Prompts(
        pick(*(o.points_BP2 for o in options)),
        pick(*(o.labels_BP for o in options)),
        pick(*(o.mask_B1hw for o in options)),
        pick(*(o.has_mask_B1 for o in options)),
    )
