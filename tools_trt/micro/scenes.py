"""Generated clips with exact masks: objects over real photographs, still or moving, by seed.

An object is an outline filled with a surface, on a path of positions, sizes and turns; later ones
cover earlier ones and may leave the frame. Some carry a smaller object that moves with them: a
prompt on it may mean the part or the whole. Some clips repeat one look, so that neighbours must be
told apart by their borders. The same seed and photographs give the same bytes.

T = frames, H, W = frame.  K = objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from pixelis_fast.tools_trt.micro.outlines import draw_outline
from pixelis_fast.tools_trt.micro.surfaces import (
    Photographs,
    color,
    crop,
    jitter,
    lit,
    pattern,
    surface,
)

SIDE = 256
SIZES = (0.1, 0.85)
"""Shares of the frame's side that an object may span; small ones are more frequent."""
MOST_OBJECTS = 6
WARP = cv2.INTER_LINEAR
SHADOW_SHIFT = np.array([[1, 0, 4], [0, 1, 5]], np.float32)
GROUND_MARGIN = 0.15
"""Of the side: how far a moving ground may be panned."""


@dataclass(frozen=True)
class Clip:
    """Frames, and which object is seen at each pixel.

    Example:
        clip = draw_clip(7, photographs(TRAINING), frames=4)
        clip.mask(1, frame=3)
    """

    frames_THWC: np.ndarray
    labels_THW: np.ndarray
    """1..K; 0 is ground."""
    wholes: tuple[int, ...]
    """By object, the object that it is a part of, or itself."""

    @property
    def objects(self) -> range:
        return range(1, len(self.wholes) + 1)

    def mask(self, label: int, *, frame: int = 0) -> np.ndarray:
        """What is seen of an object, its parts included."""
        members = [part for part in self.objects if self.wholes[part - 1] == label]
        labels_HW = self.labels_THW[frame]
        mask_HW = labels_HW == label
        for part in members:
            mask_HW = mask_HW | (labels_HW == part)
        return mask_HW


@dataclass(frozen=True)
class Sprite:
    """An object's look, and its path: x, y in pixels, enlargement, turn in radians, per frame."""

    image_SSC: np.ndarray
    opacity_SS: np.ndarray
    path_T4: np.ndarray
    whole: int
    shadow: float


def draw_clip(
    seed: int | tuple[int, ...], photographs: Photographs, *, frames: int = 1, side: int = SIDE
) -> Clip:
    random = np.random.default_rng(seed)
    sprites = draw_sprites(random, photographs, frames=frames, side=side)
    grounds = moving_ground(random, photographs, frames=frames, side=side)
    labels_THW = np.zeros((frames, side, side), np.uint8)
    for frame, ground_HWC in enumerate(grounds):
        for number, sprite in enumerate(sprites, start=1):
            paint(ground_HWC, labels_THW[frame], sprite, frame=frame, label=number)
    finished = [finish(frame_HWC, random) for frame_HWC in drifting(grounds, random)]
    return Clip(np.stack(finished), labels_THW, tuple(sprite.whole for sprite in sprites))


def draw_sprites(
    random: np.random.Generator, photographs: Photographs, *, frames: int, side: int
) -> list[Sprite]:
    count = int(random.integers(1, MOST_OBJECTS + 1))
    family = int(random.integers(1 << 32)) if random.random() < 0.25 else None
    family_size = random_size(random) * 0.6
    sprites: list[Sprite] = []
    for _ in range(count):
        looks = random if family is None else np.random.default_rng(family)
        size = random_size(random) if family is None else family_size * random.uniform(0.8, 1.2)
        whole = len(sprites) + 1
        path_T4 = random_path(random, frames=frames, side=side)
        sprites.append(
            draw_sprite(looks, photographs, path_T4, size=size * side, whole=whole, light=random)
        )
        if family is None and random.random() < 0.2:
            part_path_T4 = carried_path(path_T4, random, offset=0.2 * size * side)
            part_size = size * random.uniform(0.25, 0.5) * side
            sprites.append(
                draw_sprite(random, photographs, part_path_T4, size=part_size, whole=whole)
            )
    return sprites


def random_size(random: np.random.Generator) -> float:
    least, most = SIZES
    return float(least * (most / least) ** random.random())


def draw_sprite(
    looks: np.random.Generator,
    photographs: Photographs,
    path_T4: np.ndarray,
    *,
    size: float,
    whole: int,
    light: np.random.Generator | None = None,
) -> Sprite:
    pixels = max(int(size), 12)
    opacity_SS = draw_outline(looks, pixels)
    image_SSC = lit(surface(photographs, looks, pixels), opacity_SS, light or looks)
    shadow = float(looks.uniform(0.2, 0.6)) if looks.random() < 0.25 else 0.0
    return Sprite(image_SSC, opacity_SS, path_T4, whole, shadow)


def random_path(random: np.random.Generator, *, frames: int, side: int) -> np.ndarray:
    """A straight path at constant speed, turning and growing at constant rates; some leave."""
    time_T = np.arange(frames)[:, None]
    start = random.uniform(0.08, 0.92, 2) * side
    heading, speed = random.uniform(0, 2 * np.pi), side * random.exponential(0.03)
    step = np.array([np.cos(heading), np.sin(heading)]) * min(speed, 0.2 * side)
    turn = random.uniform(-0.12, 0.12) if random.random() < 0.6 else 0.0
    growth = random.uniform(-0.05, 0.05)
    rest_T2 = np.concatenate([np.exp(growth * time_T), turn * time_T], 1)
    return np.concatenate([start + time_T * step, rest_T2], 1)


def carried_path(path_T4: np.ndarray, random: np.random.Generator, *, offset: float) -> np.ndarray:
    """The path of something fixed to an object at an offset."""
    x, y = random.uniform(-offset, offset, 2)
    scale_T, turn_T = path_T4[:, 2], path_T4[:, 3]
    across_T = scale_T * (np.cos(turn_T) * x - np.sin(turn_T) * y)
    down_T = scale_T * (np.sin(turn_T) * x + np.cos(turn_T) * y)
    return np.stack([path_T4[:, 0] + across_T, path_T4[:, 1] + down_T, scale_T, turn_T], 1)


def moving_ground(
    random: np.random.Generator, photographs: Photographs, *, frames: int, side: int
) -> list[np.ndarray]:
    margin = int(GROUND_MARGIN * side) if frames > 1 else 0
    large = draw_ground(random, photographs, side + 2 * margin)
    step = random.uniform(-1, 1, 2) * margin / max(frames - 1, 1) * (random.random() < 0.5)
    places = [(margin + step * frame).round().astype(int) for frame in range(frames)]
    return [large[y : y + side, x : x + side].copy() for x, y in places]


def draw_ground(random: np.random.Generator, photographs: Photographs, side: int) -> np.ndarray:
    kind = random.random()
    if kind < 0.1:
        return np.broadcast_to(color(random), (side, side, 3)).astype(np.uint8)
    if kind < 0.18:
        return pattern(random, side)
    ground = jitter(crop(photographs, random, side), random)
    return cv2.GaussianBlur(ground, (0, 0), random.uniform(1, 4)) if kind < 0.35 else ground


def paint(
    frame_HWC: np.ndarray, labels_HW: np.ndarray, sprite: Sprite, *, frame: int, label: int
) -> None:
    """The sprite over the frame, and its label where it is more opaque than not."""
    side = frame_HWC.shape[0]
    left, top, right, bottom = reach(sprite, frame, side=side)
    if left >= right or top >= bottom:
        return
    matrix = placement(sprite, frame)
    matrix[:, 2] -= left, top
    window = (right - left, bottom - top)
    opacity_hw = cv2.warpAffine(sprite.opacity_SS, matrix, window, flags=WARP)
    image_hwC = cv2.warpAffine(
        sprite.image_SSC, matrix, window, flags=WARP, borderMode=cv2.BORDER_REPLICATE
    )
    place = np.s_[top:bottom, left:right]
    if sprite.shadow:
        shade(frame_HWC[place], opacity_hw, sprite.shadow)
    frame_HWC[place] = blend(frame_HWC[place], image_hwC, opacity_hw)
    labels_HW[place][opacity_hw > 127] = label


def reach(sprite: Sprite, frame: int, *, side: int) -> tuple[int, int, int, int]:
    """The part of the frame that the turned square may touch, end exclusive."""
    x, y, scale, turn = sprite.path_T4[frame]
    half = 0.5 * scale * sprite.opacity_SS.shape[0] * (abs(np.cos(turn)) + abs(np.sin(turn))) + 2
    left, top = max(int(x - half), 0), max(int(y - half), 0)
    return left, top, min(int(x + half) + 1, side), min(int(y + half) + 1, side)


def placement(sprite: Sprite, frame: int) -> np.ndarray:
    """Affine map from the sprite's pixels to the frame's."""
    x, y, scale, turn = sprite.path_T4[frame]
    cosine, sine, middle = (
        scale * np.cos(turn),
        scale * np.sin(turn),
        sprite.opacity_SS.shape[0] / 2,
    )
    matrix = np.array([[cosine, -sine, x], [sine, cosine, y]])
    matrix[:, 2] -= matrix[:, :2] @ (middle, middle)
    return matrix


def shade(part_hwC: np.ndarray, opacity_hw: np.ndarray, strength: float) -> None:
    """A soft shadow to the lower right."""
    moved_hw = cv2.warpAffine(opacity_hw, SHADOW_SHIFT, opacity_hw.shape[::-1])
    light_hw = 1 - np.float32(strength / 255) * cv2.blur(moved_hw, (7, 7))
    part_hwC[:] = (part_hwC * light_hw[..., None]).astype(np.uint8)


def blend(below_hwC: np.ndarray, above_hwC: np.ndarray, opacity_hw: np.ndarray) -> np.ndarray:
    below, above = below_hwC.astype(np.int16), above_hwC.astype(np.int16)
    share = opacity_hw[..., None].astype(np.float32) * np.float32(1 / 255)
    return (below + (above - below) * share).astype(np.uint8)


def drifting(frames: list[np.ndarray], random: np.random.Generator) -> list[np.ndarray]:
    """Light that changes evenly along the clip."""
    gains = np.linspace(1.0, random.uniform(0.75, 1.25), len(frames))
    return [
        cv2.convertScaleAbs(frame, alpha=gain) for frame, gain in zip(frames, gains, strict=True)
    ]


def finish(frame_HWC: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """What a camera adds: blur, noise, and JPEG's blocks."""
    kind = random.random()
    if kind < 0.2:
        frame_HWC = cv2.GaussianBlur(frame_HWC, (0, 0), random.uniform(0.4, 1.0))
    if random.random() < 0.5:
        top, left = random.integers(0, 256, 2)
        height, width = frame_HWC.shape[:2]
        noise_HWC = noise_table(max(height, width) + 256)[top : top + height, left : left + width]
        frame_HWC = cv2.addWeighted(
            frame_HWC, 1.0, noise_HWC, random.uniform(1, 10) / 32, 0, dtype=cv2.CV_8U
        )
    if kind > 0.8:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(40, 95))]
        decoded = cv2.imdecode(cv2.imencode(".jpg", frame_HWC, quality)[1], cv2.IMREAD_COLOR)
        assert decoded is not None
        return decoded
    return frame_HWC


@lru_cache(maxsize=2)
def noise_table(side: int) -> np.ndarray:
    """Gaussian noise of deviation 32, int16, drawn once."""
    values = np.random.default_rng(0).standard_normal((side, side, 3), dtype=np.float32)
    return (32 * values).astype(np.int16)
