"""Outlines of generated objects, drawn with soft edges: polygons, ellipses, blobs, stars, rings,
letters, and unions of these. Coordinates of an outline lie in -1..1 around its centre.

S = side of the square that it is drawn in. Knows no colours.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

FILL = 0.92
"""Share of the square that an outline may span, so that its soft edge stays inside."""
SUBPIXEL_BITS = 4
LETTERS = "ABCDEFGHKLMNPRSTUVXZ23456789abdegkmpqy&?@#"
LETTER_SIZE = 96

Outline = Callable[[np.random.Generator], np.ndarray]


def ellipse(random: np.random.Generator) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle) * flatness(random)], 1)


def polygon(random: np.random.Generator) -> np.ndarray:
    """3 to 8 corners at unequal angles and distances."""
    count = int(random.integers(3, 9))
    angle = (np.arange(count) + random.uniform(-0.35, 0.35, count)) * 2 * np.pi / count
    radius = random.uniform(0.6, 1.0, count)
    return np.stack([np.cos(angle) * radius, np.sin(angle) * radius * flatness(random)], 1)


def rectangle(random: np.random.Generator) -> np.ndarray:
    """With corners from square to round."""
    power = random.choice([2.5, 4.0, 8.0, 40.0])
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    cosine, sine = np.cos(angle), np.sin(angle)
    radius = (np.abs(cosine) ** power + np.abs(sine) ** power) ** (-1 / power)
    return np.stack([cosine * radius, sine * radius * flatness(random)], 1)


def blob(random: np.random.Generator) -> np.ndarray:
    """A circle with waves of a few frequencies on its radius."""
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    radius = np.ones_like(angle)
    for frequency in range(2, 6):
        height = random.uniform(0, 0.45) / frequency
        radius += height * np.cos(frequency * angle + random.uniform(0, 2 * np.pi))
    return np.stack([np.cos(angle) * radius, np.sin(angle) * radius * flatness(random)], 1)


def star(random: np.random.Generator) -> np.ndarray:
    points = int(random.integers(4, 9))
    angle = np.arange(2 * points) * np.pi / points
    radius = np.where(np.arange(2 * points) % 2, random.uniform(0.35, 0.7), 1.0)
    return np.stack([np.cos(angle) * radius, np.sin(angle) * radius], 1)


def flatness(random: np.random.Generator) -> float:
    """Height over width: often round, seldom very flat."""
    return float(1.0 if random.random() < 0.3 else random.uniform(0.3, 1.0))


OUTLINES: tuple[Outline, ...] = (ellipse, polygon, rectangle, blob, star)


def draw_outline(random: np.random.Generator, side: int) -> np.ndarray:
    """Opacity_SS of uint8: one outline, a letter, a ring, or a union of outlines."""
    kind = random.random()
    if kind < 0.12:
        return draw_letter(random, side)
    opacity_SS = np.zeros((side, side), np.uint8)
    fill(opacity_SS, pick(random), 255, random=random)
    if kind < 0.2:
        hole = pick(random) * random.uniform(0.3, 0.6)
        fill(opacity_SS, hole, 0, random=random)
    elif kind < 0.4:
        for _ in range(int(random.integers(1, 3))):
            part = pick(random) * random.uniform(0.35, 0.7)
            fill(opacity_SS, part + random.uniform(-0.3, 0.3, 2), 255, random=random)
    return opacity_SS


def pick(random: np.random.Generator) -> np.ndarray:
    """Corners of one outline, normalised to fit -1..1."""
    corners = OUTLINES[int(random.integers(len(OUTLINES)))](random)
    return corners / np.abs(corners).max()


def fill(
    opacity_SS: np.ndarray, corners: np.ndarray, value: int, *, random: np.random.Generator
) -> None:
    """A turned outline painted in."""
    side = opacity_SS.shape[0]
    turn = random.uniform(0, 2 * np.pi) if random.random() < 0.6 else 0.0
    cosine, sine = np.cos(turn), np.sin(turn)
    turned = corners @ np.array([[cosine, sine], [-sine, cosine]])
    turned = turned / max(float(np.abs(turned).max()), 1.0)
    pixels = (turned * FILL + 1) * (side / 2) * (1 << SUBPIXEL_BITS)
    cv2.fillPoly(
        opacity_SS, [pixels.round().astype(np.int32)], value, cv2.LINE_AA, shift=SUBPIXEL_BITS
    )


def draw_letter(random: np.random.Generator, side: int) -> np.ndarray:
    """A letter or digit, thickened so that it survives at a quarter of the resolution."""
    letter_SS = letter(LETTERS[int(random.integers(len(LETTERS)))])
    grown = int(random.integers(3, 11))
    letter_SS = cv2.dilate(letter_SS, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (grown, grown)))
    return cv2.resize(letter_SS, (side, side), interpolation=cv2.INTER_AREA)


@lru_cache(maxsize=len(LETTERS))
def letter(character: str) -> np.ndarray:
    """Opacity of a character, centred in its square, in the font that Pillow carries."""
    font = ImageFont.load_default(LETTER_SIZE)
    picture = Image.new("L", (LETTER_SIZE, LETTER_SIZE), 0)
    middle = (LETTER_SIZE / 2, LETTER_SIZE / 2)
    ImageDraw.Draw(picture).text(middle, character, fill=255, font=font, anchor="mm")
    return np.array(picture)
