"""What videos are drawn from: sizes, frames to draw on, patches that move through them.

Shapes: T = frames; h, w = patch; H, W = frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pixelis_fast.data.pixelworld.canvas import Look, PxBox, inked, varied
from pixelis_fast.data.pixelworld.config import Brief
from pixelis_fast.data.pixelworld.shapes import paint, shaded
from pixelis_fast.data.pixelworld.task import WorldObject
from pixelis_fast.data.pixelworld.words import COLORS
from pixelis_fast.types import Box, Span

Centre = tuple[float, float]
STEP = 16
"""Sides of videos are multiples of this, as encoders like them."""


@dataclass(frozen=True)
class Sprite:
    """A patch that is put at many places and looks the same at all of them."""

    alpha_hw: np.ndarray
    rgb_hwC: np.ndarray

    def put(self, frame_HWC: np.ndarray, centre: Centre) -> PxBox:
        """Paints it; the pixels it covers."""
        height, width = self.alpha_hw.shape
        left, top = round(centre[0] - width / 2), round(centre[1] - height / 2)
        paint(frame_HWC, self.alpha_hw, self.rgb_hwC, left=left, top=top)
        return inked(self.alpha_hw, left, top)


def sprite(brief: Brief, look: Look, *, striped: bool = False) -> Sprite:
    alpha_hw = look.alpha()
    height, width = alpha_hw.shape
    rgb = varied(brief, COLORS[look.color])
    rgb_hwC = shaded(rgb, (height, width), angle=brief.real(0, 6.28), depth=look.depth)
    if striped:
        y, x = np.mgrid[:height, :width].astype(np.float32)
        angle, period = brief.real(0, np.pi), look.diameter_px / brief.real(2.2, 3.2)
        bands = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period) > 0.2
        rgb_hwC = np.where(bands[..., None], rgb_hwC * 0.55, rgb_hwC)
    return Sprite(alpha_hw, rgb_hwC)


def video_side(brief: Brief) -> int:
    low, high = brief.config.video_side
    return brief.whole(-(-low // STEP), high // STEP) * STEP


def num_frames(brief: Brief) -> int:
    low, high = brief.config.video_s
    return brief.whole(round(low * brief.config.fps), round(high * brief.config.fps))


def still_frames(ground_HWC: np.ndarray, count: int) -> np.ndarray:
    """(T, H, W, 3): copies to draw on."""
    return np.repeat(ground_HWC[None], count, axis=0)


def seen(kind: str, look: Look, box: Box, span: Span) -> WorldObject:
    """A thing of a video; the box is of its first frame."""
    return WorldObject(kind, look.color, look.shape, box, span=span)
