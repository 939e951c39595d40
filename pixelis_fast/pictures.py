"""Saves what a trajectory saw and marked: crops as they are, masks painted over their frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from pixelis_fast.tools import MediaStore
from pixelis_fast.types import Mask, Observation

PAINT_RGB = np.array([255, 0, 128], dtype=np.float32)
OPACITY = 0.45


def save_pictures(
    observation: Observation, store: MediaStore, *, folder: Path, name: str
) -> list[Path]:
    """Writes NAME-crop-0.png, NAME-mask-0.png, …; returns the paths in that order."""
    folder.mkdir(parents=True, exist_ok=True)
    crops = [store.image(media.id) for media in observation.media]
    painted = [paint_mask(store.frame(m.media_id, m.time_s), m) for m in observation.masks]
    pictures = [("crop", i, image) for i, image in enumerate(crops)]
    pictures += [("mask", i, image) for i, image in enumerate(painted)]
    return [save_png(image, folder / f"{name}-{kind}-{i}.png") for kind, i, image in pictures]


def paint_mask(frame_HWC: np.ndarray, mask: Mask) -> np.ndarray:
    """The frame with the mask's pixels tinted."""
    inside_HW = coco.decode({"size": list(mask.size), "counts": mask.counts.encode()}).astype(bool)
    painted_HWC = frame_HWC.astype(np.float32)
    painted_HWC[inside_HW] += OPACITY * (PAINT_RGB - painted_HWC[inside_HW])
    return painted_HWC.round().astype(np.uint8)


def save_png(image_HWC: np.ndarray, path: Path) -> Path:
    Image.fromarray(image_HWC).save(path)
    return path
