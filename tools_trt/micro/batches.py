"""Batches of generated pictures and clips as tensors.

N = pictures or clips, K = objects taken of each, B = N * K, T = frames, S = side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pixelis_fast.tools_trt.micro.scenes import Clip, draw_clip
from pixelis_fast.tools_trt.micro.surfaces import Photographs

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's RGB values in 0..1, by which SAM 2 normalises pixels."""
LEAST_PIXELS = 100
"""Objects of which the first frame shows less are not prompted: masks have cells of 4 x 4."""


@dataclass(frozen=True)
class Batch:
    """Clips, and for each the same number of objects; pictures are clips of one frame."""

    pixels_NT3SS: Tensor
    masks_BTSS: Tensor

    @property
    def objects_per_clip(self) -> int:
        return self.masks_BTSS.shape[0] // self.pixels_NT3SS.shape[0]


def draw_batch(
    seed: tuple[int, ...],
    photographs: Photographs,
    *,
    clips: int,
    objects: int,
    frames: int,
    side: int,
) -> Batch:
    """A clip whose first frame shows no object large enough is drawn again."""
    random = np.random.default_rng((*seed, clips))
    pixels: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    attempt = 0
    while len(pixels) < clips:
        clip = draw_clip((*seed, attempt), photographs, frames=frames, side=side)
        attempt += 1
        labels = visible_objects(clip)
        if not labels:
            continue
        pixels.append(clip.frames_THWC)
        masks += [object_masks(clip, label) for label in picked(labels, objects, random)]
    stacked = torch.from_numpy(np.stack(pixels))
    return Batch(normalised(stacked), torch.from_numpy(np.stack(masks)))


def visible_objects(clip: Clip) -> list[int]:
    return [label for label in clip.objects if clip.mask(label).sum() >= LEAST_PIXELS]


def picked(labels: list[int], count: int, random: np.random.Generator) -> list[int]:
    """As many as wanted, each before any again."""
    shuffled = [labels[number] for number in random.permutation(len(labels))]
    return [shuffled[number % len(shuffled)] for number in range(count)]


def object_masks(clip: Clip, label: int) -> np.ndarray:
    """(T, S, S) of bool."""
    return np.stack([clip.mask(label, frame=frame) for frame in range(len(clip.frames_THWC))])


def normalised(pixels_THWC: Tensor) -> Tensor:
    """(…, H, W, 3) of uint8 -> (…, 3, H, W) of float32."""
    mean, deviation = torch.tensor(MEAN), torch.tensor(DEVIATION)
    scaled = (pixels_THWC.float() / 255 - mean) / deviation
    return scaled.movedim(-1, -3).contiguous()
