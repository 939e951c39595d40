"""One training step's loss: prompts answered on pictures, objects followed through clips.

A picture is encoded once and teaches by all its objects; some steps ask again with a click where
the first answer was wrong. In a clip the first frame is prompted and the rest follows
through the memory. Losses of rounds and frames are averaged.

N = clips, K = objects of each, B = N * K, T = frames, S = side, h, w = masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pixelis_fast.tools_trt.micro import prompts
from pixelis_fast.tools_trt.micro.batches import Batch
from pixelis_fast.tools_trt.micro.following import Bank
from pixelis_fast.tools_trt.micro.losses import mask_losses
from pixelis_fast.tools_trt.micro.prompts import Prompts
from pixelis_fast.tools_trt.models.sam2_choice import best_candidate, chosen
from pixelis_fast.tools_trt.models.sam2_model import Sam2Graphs

POINT, BOX, MASK = range(3)
KIND_SHARES = (0.45, 0.4, 0.15)
"""How often a first prompt is a point, a box, a mask."""
ASK_AGAIN = 0.3
"""How often a second round corrects the first."""
SHOW_MASK = 0.3
"""How often a clip's first memory is made from the true mask instead of the answer."""
ABSENT_LOGIT = -1024.0
"""The mask of an object that is out of sight."""

Features = tuple[Tensor, Tensor, Tensor]
"""fine, middle, coarse; one row per object."""


@dataclass(frozen=True)
class Answer:
    """What the decoder said, and the mask that is taken of it."""

    masks_B4hw: Tensor
    qualities_B4: Tensor
    pointers_B4C: Tensor
    presence_B1: Tensor
    index_B: Tensor

    def logits(self) -> Tensor:
        """(B, 1, h, w) of the mask that is taken."""
        return chosen(self.masks_B4hw, self.index_B)[:, None]

    def pointers(self) -> Tensor:
        """(B, C) of the mask that is taken."""
        return chosen(self.pointers_B4C, self.index_B)


def lesson(graphs: Sam2Graphs, batch: Batch, random: torch.Generator) -> tuple[Tensor, float]:
    """(loss, mean IoU of the first answers)."""
    is_clip = batch.pixels_NT3SS.shape[1] > 1
    return (clip_lesson if is_clip else picture_lesson)(graphs, batch, random)


def picture_lesson(
    graphs: Sam2Graphs, batch: Batch, random: torch.Generator
) -> tuple[Tensor, float]:
    features = encoded(graphs, batch.pixels_NT3SS[:, 0], batch.objects_per_clip)
    truth_BSS = batch.masks_BTSS[:, 0]
    asked, is_clear_B = first_prompts(truth_BSS, random)
    losses = []
    answer = ask(graphs, without_memory(graphs, features), asked, is_clear_B)
    losses.append(graded(answer, truth_BSS))
    if float(torch.rand((), generator=random)) < ASK_AGAIN:
        asked = prompts.corrected(asked, answer.logits(), truth_BSS, random)
        again = ask(graphs, without_memory(graphs, features), asked, torch.ones_like(is_clear_B))
        losses.append(graded(again, truth_BSS))
    return torch.stack([loss for loss, _ in losses]).mean(), losses[0][1]


def clip_lesson(graphs: Sam2Graphs, batch: Batch, random: torch.Generator) -> tuple[Tensor, float]:
    frames = batch.pixels_NT3SS.shape[1]
    every = encoded_clips(graphs, batch)
    # As if the clip were one of up to as many frames as there are pointers.
    last = graphs.config.pointer_slots - 1
    longest = int(torch.randint(frames - 1, last + 1, (), generator=random))
    bank, losses = Bank(graphs, longest=longest), []
    for frame in range(frames):
        truth_BSS = batch.masks_BTSS[:, frame]
        features = (every[0][:, frame], every[1][:, frame], every[2][:, frame])
        if frame == 0:
            asked, is_clear_B = first_prompts(truth_BSS, random)
            answer = ask(graphs, without_memory(graphs, features), asked, is_clear_B)
        else:
            answer = follow(graphs, features, bank)
        losses.append(graded(answer, truth_BSS))
        if frame == frames - 1:
            break
        shown = frame == 0 and float(torch.rand((), generator=random)) < SHOW_MASK
        remember(graphs, bank, features[2], answer, truth_BSS if shown else None)
    ious = [iou for _, iou in losses]
    return torch.stack([loss for loss, _ in losses]).mean(), sum(ious) / len(ious)


def encoded(graphs: Sam2Graphs, pixels_N3SS: Tensor, objects: int) -> Features:
    """Features of each picture, once for each of its objects."""
    fine, middle, coarse = (
        level.repeat_interleave(objects, 0) for level in graphs.encoder(pixels_N3SS)
    )
    return fine, middle, coarse


def encoded_clips(graphs: Sam2Graphs, batch: Batch) -> Features:
    """Features (B, T, …) of all frames."""
    clips = batch.pixels_NT3SS.shape[0]
    levels = graphs.encoder(batch.pixels_NT3SS.flatten(0, 1))
    fine, middle, coarse = (
        level.unflatten(0, (clips, -1)).repeat_interleave(batch.objects_per_clip, 0)
        for level in levels
    )
    return fine, middle, coarse


def without_memory(graphs: Sam2Graphs, features: Features) -> Features:
    return features[0], features[1], features[2] + graphs.no_memory


def first_prompts(truth_BSS: Tensor, random: torch.Generator) -> tuple[Prompts, Tensor]:
    """(prompts of random kinds, which of them leave no doubt what is meant)."""
    shares = torch.tensor(KIND_SHARES)
    kinds_B = torch.multinomial(shares, len(truth_BSS), replacement=True, generator=random)
    options = (
        prompts.points(truth_BSS, random),
        prompts.boxes(truth_BSS, random),
        prompts.masks(truth_BSS, random),
    )
    return prompts.chosen(kinds_B, *options), kinds_B != POINT


def ask(graphs: Sam2Graphs, features: Features, asked: Prompts, is_clear_B: Tensor) -> Answer:
    """The decoder's answer; a clear prompt is answered by mask 0, another by the best candidate."""
    fine, middle, coarse = features
    masks_B4hw, qualities_B4, pointers_B4C, presence_B1 = graphs.decoder(
        coarse,
        fine,
        middle,
        asked.points_BP2,
        asked.labels_BP,
        asked.mask_B1hw,
        asked.has_mask_B1,
    )
    index_B = torch.where(is_clear_B, 0, best_candidate(qualities_B4.detach()))
    return Answer(masks_B4hw, qualities_B4, pointers_B4C, presence_B1, index_B)


def follow(graphs: Sam2Graphs, features: Features, bank: Bank) -> Answer:
    """The answer on a frame without prompts."""
    fine, middle, coarse = features
    count = len(coarse)
    asked = prompts.nothing(count, side=graphs.config.side, device=coarse.device)
    is_clear_B = torch.zeros(count, dtype=torch.bool)
    return ask(graphs, (fine, middle, bank.condition(coarse)), asked, is_clear_B)


def remember(
    graphs: Sam2Graphs, bank: Bank, coarse_BCgg: Tensor, answer: Answer, drawn_BSS: Tensor | None
) -> None:
    """The answer, or a drawn mask instead, goes into the bank; the first frame's as clicked."""
    assert graphs.memory is not None
    side, presence_B1 = graphs.config.side, answer.presence_B1.detach()
    if drawn_BSS is None:
        is_there = presence_B1[..., None, None] > 0
        low_B1hw = torch.where(is_there, answer.logits(), ABSENT_LOGIT)
        logits_B1SS = functional.interpolate(
            low_B1hw, (side, side), mode="bilinear", align_corners=False
        )
    else:
        logits_B1SS = (drawn_BSS.float()[:, None] * 2 - 1) * prompts.MASK_LOGIT
    is_clicked_B1 = torch.full_like(presence_B1, float(not bank.tokens))
    memory_BKgg = graphs.memory.encoder(coarse_BCgg, logits_B1SS, is_clicked_B1, presence_B1)
    bank.add(memory_BKgg, graphs.memory.visible_or_not(answer.pointers(), presence_B1))


def graded(answer: Answer, truth_BSS: Tensor) -> tuple[Tensor, float]:
    losses = mask_losses(
        answer.masks_B4hw, answer.qualities_B4, answer.presence_B1, truth_BSS=truth_BSS
    )
    return losses.total, float(losses.iou)
