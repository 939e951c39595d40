"""IoU of the micro model's masks on held-out scenes, at the full side, by kind of prompt.

N = clips, K = objects of each, B = N * K, T = frames, S = side.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pixelis_fast.tools_trt.micro import lessons, prompts
from pixelis_fast.tools_trt.micro.batches import Batch, draw_batch
from pixelis_fast.tools_trt.micro.following import Bank
from pixelis_fast.tools_trt.micro.prompts import Prompts
from pixelis_fast.tools_trt.micro.surfaces import Photographs
from pixelis_fast.tools_trt.models.sam2_model import Sam2Graphs

PICTURE_SEED, CLIP_SEED = 1_000_003, 1_000_033
"""First of two numbers that seed a scene; training's first number is its --seed."""
MOST_SEED = 1_000_000


def held_out_pictures(
    photographs: Photographs, *, count: int, objects: int = 3, side: int
) -> list[Batch]:
    """Pictures one at a time, so that no memory depends on their number."""
    return [
        draw_batch(
            (PICTURE_SEED, number), photographs, clips=1, objects=objects, frames=1, side=side
        )
        for number in range(count)
    ]


def held_out_clips(
    photographs: Photographs, *, count: int, frames: int, objects: int = 2, side: int
) -> list[Batch]:
    return [
        draw_batch(
            (CLIP_SEED, number), photographs, clips=1, objects=objects, frames=frames, side=side
        )
        for number in range(count)
    ]


@torch.inference_mode()
def picture_ious(graphs: Sam2Graphs, pictures: Sequence[Batch]) -> dict[str, np.ndarray]:
    """IoUs of all objects: by a point anywhere inside, by the point farthest from the outline, by
    exact box, by noisy mask, and by a point that one click corrects."""
    found: dict[str, list[Tensor]] = {}
    for number, batch in enumerate(pictures):
        random = torch.Generator().manual_seed(number)
        truth_BSS = batch.masks_BTSS[:, 0]
        features = lessons.without_memory(
            graphs, lessons.encoded(graphs, batch.pixels_NT3SS[:, 0], batch.objects_per_clip)
        )
        point = prompts.points(truth_BSS, random)
        asked = {
            "point": (point, False),
            "centre": (centres(truth_BSS), False),
            "box": (prompts.boxes(truth_BSS, None), True),
            "mask": (prompts.masks(truth_BSS, random), True),
        }
        for kind, (prompt, is_clear) in asked.items():
            clear_B = torch.full((len(truth_BSS),), is_clear)
            answer = lessons.ask(graphs, features, prompt, clear_B)
            found.setdefault(kind, []).append(full_iou(answer.logits(), truth_BSS))
            if kind == "point":
                more = prompts.corrected(point, answer.logits(), truth_BSS, random)
                again = lessons.ask(graphs, features, more, torch.ones_like(clear_B))
                found.setdefault("point+click", []).append(full_iou(again.logits(), truth_BSS))
    return {kind: torch.cat(ious).numpy() for kind, ious in found.items()}


@torch.inference_mode()
def clip_ious(graphs: Sam2Graphs, clips: Sequence[Batch]) -> dict[str, np.ndarray]:
    """Per object the mean IoU over the frames after the first in which it is seen, prompted by its
    exact box; and the share of frames in which its presence was told rightly."""
    ious, told = [], []
    for batch in clips:
        masks_BTSS, presence_BT = tracked(graphs, batch)
        truth_BTSS = batch.masks_BTSS
        is_there_BT = truth_BTSS.flatten(2).any(2)
        iou_BT = mask_iou(masks_BTSS, truth_BTSS)
        later_BT = is_there_BT[:, 1:].float()
        ious.append((iou_BT[:, 1:] * later_BT).sum(1) / later_BT.sum(1).clamp(min=1))
        told.append(((presence_BT > 0) == is_there_BT)[:, 1:].float().mean(1))
    return {"track": torch.cat(ious).numpy(), "presence": torch.cat(told).numpy()}


def tracked(graphs: Sam2Graphs, batch: Batch) -> tuple[Tensor, Tensor]:
    """(masks (B, T, S, S), presence (B, T)) of objects whose first box is given."""
    frames, objects = batch.pixels_NT3SS.shape[1], batch.objects_per_clip
    bank = Bank(graphs, longest=min(frames, graphs.config.pointer_slots) - 1)
    masks, presences = [], []
    for frame in range(frames):
        features = lessons.encoded(graphs, batch.pixels_NT3SS[:, frame], objects)
        if frame == 0:
            asked = prompts.boxes(batch.masks_BTSS[:, 0], None)
            clear_B = torch.ones(len(batch.masks_BTSS), dtype=torch.bool)
            answer = lessons.ask(graphs, lessons.without_memory(graphs, features), asked, clear_B)
        else:
            answer = lessons.follow(graphs, features, bank)
        is_there_B11 = answer.presence_B1[..., None] > 0
        masks.append(enlarged(answer.logits(), graphs.config.side) & is_there_B11)
        presences.append(answer.presence_B1[:, 0])
        lessons.remember(graphs, bank, features[2], answer, None)
    return torch.stack(masks, 1), torch.stack(presences, 1)


def centres(truth_BSS: Tensor) -> Prompts:
    """Each object's point farthest from its outline."""
    side = truth_BSS.shape[-1]
    asked = prompts.points(truth_BSS, torch.Generator().manual_seed(0))
    for number, mask_SS in enumerate(truth_BSS.numpy()):
        bordered = np.pad(mask_SS.astype(np.uint8), 1)
        distance_SS = cv2.distanceTransform(bordered, cv2.DIST_L2, 5)[1:-1, 1:-1]
        y, x = divmod(int(distance_SS.argmax()), side)
        asked.points_BP2[number, 0] = torch.tensor([x + 0.5, y + 0.5])
    return asked


def enlarged(logits_B1hw: Tensor, side: int) -> Tensor:
    """(B, S, S) of bool."""
    size = (side, side)
    return functional.interpolate(logits_B1hw, size, mode="bilinear", align_corners=False)[:, 0] > 0


def full_iou(logits_B1hw: Tensor, truth_BSS: Tensor) -> Tensor:
    return mask_iou(enlarged(logits_B1hw, truth_BSS.shape[-1]), truth_BSS)


def mask_iou(found: Tensor, truth: Tensor) -> Tensor:
    """Of (…, S, S) bool; two empty masks agree."""
    common = (found & truth).sum((-2, -1)).float()
    either = (found | truth).sum((-2, -1)).float()
    return torch.where(either > 0, common / either.clamp(min=1), 1.0)
