"""Surfaces of generated objects and grounds: plain colours, gradients, stripes, spots, patches of
photographs, with light falling on them. All S x S x 3 of uint8.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

Photographs = Sequence[np.ndarray]


def color(random: np.random.Generator) -> np.ndarray:
    """RGB of float32: half of them grey-ish, as real ones are."""
    rgb = random.uniform(0, 255, 3)
    if random.random() < 0.5:
        rgb = rgb.mean() + (rgb - rgb.mean()) * random.uniform(0, 0.4)
    return rgb.astype(np.float32)


def crop(photographs: Photographs, random: np.random.Generator, side: int) -> np.ndarray:
    """A square of a random photograph at a random enlargement, mirrored at random."""
    picture = photographs[int(random.integers(len(photographs)))]
    longest = min(picture.shape[:2])
    length = int(random.uniform(min(0.25 * longest, side), longest))
    top = int(random.integers(picture.shape[0] - length + 1))
    left = int(random.integers(picture.shape[1] - length + 1))
    # Leaving pixels out is many times cheaper than averaging them, and as good a texture.
    step = max(length // (2 * side), 1)
    part = picture[top : top + length : step, left : left + length : step]
    part = cv2.resize(np.ascontiguousarray(part), (side, side), interpolation=cv2.INTER_LINEAR)
    return cv2.flip(part, 1) if random.random() < 0.5 else part


def jitter(image_SSC: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Another contrast, brightness and cast, by a table for each channel."""
    contrast, shift = random.uniform(0.5, 1.3), random.uniform(-50, 50)
    cast = random.uniform(-20, 20, 3)
    levels = np.arange(256, dtype=np.float32)[:, None]
    table = (levels - 128) * contrast + 128 + shift + cast
    return cv2.LUT(image_SSC, table.clip(0, 255).astype(np.uint8)[None])


def surface(photographs: Photographs, random: np.random.Generator, side: int) -> np.ndarray:
    """What an object is covered with."""
    kind = random.random()
    if kind < 0.35:
        return jitter(crop(photographs, random, side), random)
    if kind < 0.5:
        patch = crop(photographs, random, side)
        plain = np.broadcast_to(color(random), patch.shape).astype(np.uint8)
        share = random.uniform(0.15, 0.6)
        return cv2.addWeighted(patch, share, plain, 1 - share, 0)
    if kind < 0.65:
        return np.broadcast_to(color(random), (side, side, 3)).astype(np.uint8)
    return pattern(random, side)


def pattern(random: np.random.Generator, side: int) -> np.ndarray:
    """Two colours mixed by a gradient, by stripes, by a checkerboard or by spots."""
    across, down = np.meshgrid(*[np.linspace(-1, 1, side, dtype=np.float32)] * 2)
    turn = random.uniform(0, np.pi)
    along = across * np.float32(np.cos(turn)) + down * np.float32(np.sin(turn))
    waves = np.float32(random.uniform(4, 25))
    kind = random.random()
    mix: np.ndarray
    if kind < 0.4:
        mix = along * 0.5 + 0.5
    elif kind < 0.65:
        mix = (np.sin(along * waves) > random.uniform(-0.5, 0.5)).astype(np.float32)
    elif kind < 0.8:
        mix = (np.sin(across * waves) * np.sin(down * waves) > 0).astype(np.float32)
    else:
        small = random.random((int(waves), int(waves))).astype(np.float32)
        mix = cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)
    first, second = color(random), color(random)
    mixed = first + (second - first) * mix[..., None]
    return mixed.clip(0, 255).astype(np.uint8)


def lit(image_SSC: np.ndarray, opacity_SS: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Light from one side, or a rim darker than the rest, or neither."""
    kind = random.random()
    side = image_SSC.shape[0]
    if kind < 0.3:
        x, y = random.uniform(-1, 1, 2)
        row = np.linspace(-1, 1, side, dtype=np.float32)
        light = 1 + np.float32(0.35) * (np.float32(x) * row[None] + np.float32(y) * row[:, None])
        return (image_SSC * light[..., None]).clip(0, 255).astype(np.uint8)
    if kind < 0.5:
        width = max(int(side * random.uniform(0.02, 0.08)), 1)
        inner = cv2.erode(opacity_SS, np.ones((2 * width + 1,) * 2, np.uint8))
        rim_SS = (opacity_SS > 0) & (inner == 0)
        rimmed_SSC = image_SSC.copy()
        rimmed_SSC[rim_SS] = (image_SSC[rim_SS] * random.uniform(0.3, 0.8)).astype(np.uint8)
        return rimmed_SSC
    return image_SSC
