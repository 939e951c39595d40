"""The name of a colour: the nearest of a few anchors in CIELAB (Euclidean distance, CIE 1976).

Several anchors share a name where people use one word for a wide range. sRGB to CIELAB follows
IEC 61966-2-1 and CIE 15 with white point D65.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ANCHORS: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("black", (0, 0, 0)),
    ("black", (30, 30, 30)),
    ("gray", (80, 80, 80)),
    ("gray", (128, 128, 128)),
    ("gray", (180, 180, 180)),
    ("white", (235, 235, 235)),
    ("white", (255, 255, 255)),
    ("red", (255, 0, 0)),
    ("red", (200, 30, 40)),
    ("red", (130, 10, 20)),
    ("orange", (255, 140, 0)),
    ("orange", (240, 110, 40)),
    ("yellow", (255, 255, 0)),
    ("yellow", (230, 200, 50)),
    ("brown", (120, 70, 30)),
    ("brown", (90, 50, 35)),
    ("beige", (225, 205, 170)),
    ("beige", (200, 170, 135)),
    ("green", (0, 255, 0)),
    ("green", (40, 150, 60)),
    ("green", (20, 80, 30)),
    ("green", (120, 140, 60)),
    ("cyan", (0, 255, 255)),
    ("cyan", (60, 180, 190)),
    ("teal", (0, 128, 128)),
    ("blue", (0, 0, 255)),
    ("blue", (40, 90, 190)),
    ("blue", (50, 70, 205)),
    ("blue", (70, 110, 225)),
    ("blue", (20, 30, 100)),
    ("blue", (110, 170, 230)),
    ("blue", (135, 206, 235)),
    ("purple", (128, 0, 128)),
    ("purple", (120, 80, 180)),
    ("pink", (255, 105, 180)),
    ("pink", (245, 180, 195)),
    ("magenta", (255, 0, 255)),
)

_SRGB_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def color_name(rgb: Sequence[float]) -> str:
    """Name of the anchor nearest to an sRGB colour of 0..255."""
    distance = np.linalg.norm(_ANCHORS_LAB - to_lab(np.asarray(rgb)), axis=-1)
    return ANCHORS[int(distance.argmin())][0]


def to_lab(rgb: np.ndarray) -> np.ndarray:
    """[..., 3] sRGB of 0..255 to CIELAB."""
    encoded = rgb / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    xyz = (linear @ _SRGB_TO_XYZ.T) / _SRGB_TO_XYZ.sum(1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


_ANCHORS_LAB = to_lab(np.array([rgb for _, rgb in ANCHORS]))
