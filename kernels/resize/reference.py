"""The textbook resize: a dense weight matrix per axis in float64, rounded to uint8 in between.

The kernel's fixed-point weights may move a value across one rounding: at most one step apart.
Filters: Keys' cubic with a = -0.5, the triangle, Lanczos with three lobes, the box.

Shapes: H, W = input size, h, w = output size, C = 3.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def cubic(x: Floats) -> Floats:
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def triangle(x: Floats) -> Floats:
    return np.maximum(0.0, 1.0 - np.abs(x))


def lanczos3(x: Floats) -> Floats:
    return np.where((x >= -3) & (x < 3), np.sinc(x) * np.sinc(x / 3), 0.0)


def box(x: Floats) -> Floats:
    return np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)


FILTERS: dict[str, tuple[Callable[[Floats], Floats], float]] = {
    "bicubic": (cubic, 2.0),
    "bilinear": (triangle, 1.0),
    "lanczos": (lanczos3, 3.0),
    "box": (box, 0.5),
}
"""Name -> (filter, its support)."""


def weight_matrix(in_size: int, out_size: int, filter: str) -> Floats:
    """(out_size, in_size); each row sums to one. The filter is widened by the reduction."""
    value, support = FILTERS[filter]
    scale = in_size / out_size
    widening = max(scale, 1.0)
    centers = (np.arange(out_size) + 0.5) * scale
    positions = np.arange(in_size)
    weights = value((positions[None, :] - centers[:, None] + 0.5) / widening)
    first = np.maximum((centers - support * widening + 0.5).astype(int), 0)
    end = np.minimum((centers + support * widening + 0.5).astype(int), in_size)
    weights *= (positions >= first[:, None]) & (positions < end[:, None])
    return weights / weights.sum(axis=1, keepdims=True)


def to_bytes(values: Floats) -> NDArray[np.uint8]:
    return np.clip(np.floor(values + 0.5), 0, 255).astype(np.uint8)


def resize_reference(
    image_HWC: NDArray[np.uint8], height: int, width: int, *, filter: str = "bicubic"
) -> NDArray[np.uint8]:
    horizontal_wW = weight_matrix(image_HWC.shape[1], width, filter)
    vertical_hH = weight_matrix(image_HWC.shape[0], height, filter)
    narrow_HwC = to_bytes(np.einsum("wW,HWC->HwC", horizontal_wW, image_HWC))
    return to_bytes(np.einsum("hH,HwC->hwC", vertical_hH, narrow_HwC))
