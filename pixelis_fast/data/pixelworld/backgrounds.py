"""What objects are drawn on: parts of photographs, or gradients, stripes and noise.

Dim and soft, so that objects stand out. Photographs come with scikit-image; test has its own.

Shapes: H, W = picture.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

from pixelis_fast.data.pixelworld.config import Brief

PHOTOS = {
    "train": (
        "astronaut.png", "chelsea.png", "rocket.jpg", "brick.png", "grass.png",
        "motorcycle_left.png", "ihc.png", "camera.png",
    ),
    "test": ("coffee.png", "hubble_deep_field.jpg", "gravel.png", "coins.png", "retina.jpg"),
}  # fmt: skip
"""By split; val shares train's."""
COLOR_LEFT, CONTRAST_LEFT = 0.35, 0.5
LONGEST = 480
"""Photographs are kept no larger: they are soft."""
DRAWN_SIDE = 160
"""Procedural grounds are drawn this large and enlarged: they have no detail that would show it."""

GRID = np.mgrid[:DRAWN_SIDE, :DRAWN_SIDE].astype(np.float32) / DRAWN_SIDE
"""(2, DRAWN_SIDE, DRAWN_SIDE): y and x, 0..1."""


def background(brief: Brief, side: int) -> np.ndarray:
    """(side, side, 3) of uint8."""
    kind = brief.config.backgrounds
    if kind == "mixed":
        kind = "photos" if brief.chance(0.5) else "procedural"
    return _photo(brief, side) if kind == "photos" else _procedural(brief, side)


def _photo(brief: Brief, side: int) -> np.ndarray:
    choices = PHOTOS["test" if brief.split == "test" else "train"]
    photo = _dimmed(choices[brief.whole(0, len(choices) - 1)])
    height, width = photo.shape[:2]
    part = round(min(height, width) * brief.real(0.5, 1.0))
    top, left = brief.whole(0, height - part), brief.whole(0, width - part)
    crop = photo[top : top + part, left : left + part]
    crop = crop[:, ::-1] if brief.chance(0.5) else crop
    levels = (np.arange(256) + brief.real(-18, 18)).clip(0, 255).astype(np.uint8)
    return cv2.resize(cv2.LUT(np.ascontiguousarray(crop), levels), (side, side))


@lru_cache(maxsize=32)
def _dimmed(name: str) -> np.ndarray:
    """A photograph, softened, half grey and of little contrast."""
    path = photo_folder() / name
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"backgrounds: expected a photograph at {path}, got none")
    scale = min(1.0, LONGEST / max(image.shape[:2]))
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(image[..., ::-1], (0, 0), 0.006 * max(image.shape))
    pixels = soft.astype(np.float32)
    grey = pixels.mean(2, keepdims=True)
    faded = grey + COLOR_LEFT * (pixels - grey)
    dimmed = 118 + CONTRAST_LEFT * (faded - faded.mean())
    return dimmed.clip(0, 255).astype(np.uint8)


def photo_folder() -> Path:
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise ValueError(
            "backgrounds: expected scikit-image for its photographs, got none; install "
            "pixelis-fast[baseline] or draw procedural ones"
        )
    return Path(spec.origin).parent / "data"


def _procedural(brief: Brief, side: int) -> np.ndarray:
    """A gradient between two dull colours, with stripes or with soft noise."""
    dull = brief.real(90, 165) + brief.rng.uniform(-28, 28, (2, 3)).astype(np.float32)
    y, x = GRID
    angle = brief.real(0, 2 * np.pi)
    across = (x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))).clip(-1, 1) / 2 + 0.5
    pattern = _stripes(brief, x, y) if brief.chance(0.5) else _soft_noise(brief)
    ground = dull[0] + (dull[1] - dull[0]) * across[..., None] + pattern[..., None]
    return cv2.resize(ground.clip(0, 255).astype(np.uint8), (side, side))


def _stripes(brief: Brief, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    angle, waves = brief.real(0, np.pi), brief.real(4, 20)
    phase = (x * np.cos(angle) + y * np.sin(angle)) * np.float32(2 * np.pi * waves)
    return np.sin(phase) * np.float32(brief.real(2, 7))


def _soft_noise(brief: Brief) -> np.ndarray:
    cells = brief.whole(6, 40)
    noise = brief.rng.standard_normal((cells, cells)).astype(np.float32) * brief.real(3, 8)
    return cv2.resize(noise, (DRAWN_SIDE, DRAWN_SIDE), interpolation=cv2.INTER_CUBIC)
