"""Resizing of working copies: halved while halving is enough, then averaged to the exact size.

Halving is the one area average that OpenCV vectorises: by size, 1 to 3.5 times as fast as one
direct average (`bench/regions.py`), and slightly softer where the last step is no halving. For what
is compared and searched, never for what is shown. Knows no colour and no video.
"""

from __future__ import annotations

import cv2
import numpy as np

ODD_FACTOR = 8
"""An odd side may lose its last pixel where it is that much larger than wished: the picture then
stretches by less than a quarter of a resized pixel at its far edge."""


def shrink(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8, HW or HWC, at (width, height); sides that grow are interpolated linearly."""
    width, height = size
    while _halves(image.shape[1], width) and _halves(image.shape[0], height):
        image = half(image)
    if image.shape[:2] == (height, width):
        return image
    grows = image.shape[1] < width or image.shape[0] < height
    filtering = cv2.INTER_LINEAR if grows else cv2.INTER_AREA
    return cv2.resize(image, (width, height), interpolation=filtering)


def half(image: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels; a last odd row or column is left out."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    even = image[: 2 * height, : 2 * width]
    return cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA)


def _halves(side: int, wish: int) -> bool:
    return side >= 2 * wish and (side % 2 == 0 or side >= ODD_FACTOR * wish)
