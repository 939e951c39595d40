"""Shapes and texts as soft masks, drawn large and reduced, and how they are painted.

Shapes: h, w = patch; H, W = picture.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

FINE = 4
"""Patches are drawn this much larger."""
REACH = 1.2
"""Corners lie this much outside of the circle that a shape's diameter is of."""
CAP_SHARE = 0.74
"""Height of a capital of Pillow's own font, as a share of the font's size."""


def shape_alpha(shape: str, diameter_px: float, angle_deg: float = 0.0) -> np.ndarray:
    """(h, w) of float 0..1, the shape in the middle, turned."""
    side = int(np.ceil(diameter_px * REACH)) + 4
    fine = np.zeros((side * FINE, side * FINE), np.uint8)
    middle, radius = side * FINE / 2, diameter_px * FINE / 2
    if shape in ("disk", "ring"):
        centre = (round(middle), round(middle))
        cv2.circle(fine, centre, round(radius), 255, cv2.FILLED)
        if shape == "ring":
            cv2.circle(fine, centre, round(radius * 0.58), 0, cv2.FILLED)
    else:
        corners = _turned(OUTLINES[shape], angle_deg) * radius + middle
        cv2.fillPoly(fine, [np.rint(corners).astype(np.int32)], 255)
    return cv2.resize(fine, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def text_alpha(text: str, cap_px: float, *, weight: int = 1, stretch: float = 1.0) -> np.ndarray:
    """(h, w) of float 0..1: a line of text whose capitals are cap_px high, cut close."""
    font = _font(2 * round(cap_px * FINE / CAP_SHARE / 2))
    left, top, right, bottom = font.getbbox(text, stroke_width=weight)
    image = Image.new("L", (round(right - left) + 2, round(bottom - top) + 2))
    place = 1 - left, 1 - top
    ImageDraw.Draw(image).text(place, text, fill=255, font=font, stroke_width=weight)
    size = max(round(image.width * stretch / FINE), 1), max(round(image.height / FINE), 1)
    return cv2.resize(np.array(image), size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow: expected a build with FreeType, got one without")
    return font


def paint(
    image_HWC: np.ndarray, alpha_hw: np.ndarray, rgb_hwC: np.ndarray, *, left: int, top: int
) -> None:
    """Lays a patch (or one colour) over a picture, in place; what sticks out is cut."""
    height, width = alpha_hw.shape
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + height, image_HWC.shape[0]), min(left + width, image_HWC.shape[1])
    if y0 >= y1 or x0 >= x1:
        return
    cut = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
    alpha = alpha_hw[cut][..., None]
    colors = rgb_hwC[cut] if rgb_hwC.ndim == 3 else rgb_hwC
    part = image_HWC[y0:y1, x0:x1]
    part[:] = np.rint(part * (1 - alpha) + colors * alpha).clip(0, 255)


def shaded(rgb: np.ndarray, size: tuple[int, int], *, angle: float, depth: float) -> np.ndarray:
    """(h, w, 3): a colour a little lighter on one side."""
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    across = (x / width - 0.5) * np.cos(angle) + (y / height - 0.5) * np.sin(angle)
    return rgb.astype(np.float32) * (1 + depth * across)[..., None]


def _turned(corners: np.ndarray, angle_deg: float) -> np.ndarray:
    angle = np.deg2rad(angle_deg)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return corners @ turn


def _polygon(count: int, *, radii: tuple[float, ...] = (1.0,), start: float = -90.0) -> np.ndarray:
    angles = np.deg2rad(start + 360 / count * np.arange(count))
    radius = np.array([radii[n % len(radii)] for n in range(count)])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius[:, None]


_ARM = 0.3
OUTLINES = {
    "square": _polygon(4, start=-45.0) * REACH,
    "triangle": _polygon(3) * REACH,
    "star": _polygon(10, radii=(1.0, 0.5)) * REACH,
    "cross": np.array(
        [
            (-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM),
            (_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM),
        ]
    ) * 0.95,
}  # fmt: skip
"""Corners in a circle of radius REACH."""
