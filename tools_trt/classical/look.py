"""Where in a picture a look is: masked correlation of a patch, over places and sizes.

Large looks are searched at half size, which leaves them a pixel off. Knows no time and no motion.

Shapes: h, w = working frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from pixelis_fast.tools_trt.classical.grabcut import PxBox
from pixelis_fast.tools_trt.pixels.shrink import half, shrink

SCALES = (0.85, 1.0, 1.18)
"""Sizes the look is searched at; a track is visited sparsely, so sizes jump."""
MIN_HALVED = 24
"""Working pixels of a look that is searched at half size; flow makes up for the pixel lost."""


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


def best_match(small_hwC: np.ndarray, looks: Sequence[Look], area: PxBox) -> Match:
    """The best of several looks at all sizes."""
    matches = [find_look(small_hwC, look, area, scale) for look in looks for scale in SCALES]
    return max(matches, key=lambda match: match.correlation)


def find_look(small_hwC: np.ndarray, look: Look, area: PxBox, scale: float) -> Match:
    """Best masked correlation of a look, resized by `scale`, inside an area."""
    height, width = (max(round(n * scale), 8) for n in look.mask.shape)
    step = 2 if min(height, width) >= MIN_HALVED else 1
    patch, weight, pad = _template(look, (width // step, height // step))
    x0, y0, x1, y1 = area
    pad_x, pad_y = pad[0] * step, pad[1] * step
    field = padded(small_hwC, (x0 - pad_x, y0 - pad_y, x1 + pad_x, y1 + pad_y))
    field = half(field) if step == 2 else field
    found = cv2.matchTemplate(field.astype(np.float32), patch, cv2.TM_CCOEFF_NORMED, mask=weight)
    found = np.nan_to_num(found, nan=-1.0, posinf=-1.0, neginf=-1.0)
    row, column = np.unravel_index(int(found.argmax()), found.shape)
    correlation = float(min(found[row, column], 1.0))
    return Match(x0 + step * int(column), y0 + step * int(row), scale, correlation)


def _template(look: Look, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """(patch, weight per pixel, half its sides) of a look at (width, height)."""
    patch = shrink(look.patch, size).astype(np.float32)
    weight = cv2.resize(look.mask.astype(np.float32), size)[..., None].repeat(3, 2)
    # The ground around the object helps a little: it keeps the outline in place.
    return patch, 0.1 + 0.9 * weight, (size[0] // 2, size[1] // 2)


def padded(image: np.ndarray, box: PxBox) -> np.ndarray:
    """A crop that may stick out of the picture; the edge repeats."""
    height, width = image.shape[:2]
    rows = np.clip(np.arange(box[1], box[3]), 0, height - 1)
    columns = np.clip(np.arange(box[0], box[2]), 0, width - 1)
    return np.ascontiguousarray(image[rows][:, columns])
