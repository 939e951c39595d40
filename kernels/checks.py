"""What a caller can get wrong, said in one form: ValueError "name: expected … got …".

Knows arrays and numbers, not what an op does with them. Nothing here copies or converts.
"""

import math
from collections.abc import Collection, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np


def check(condition: bool, name: str, expected: str, got: object) -> None:
    if not condition:
        raise ValueError(f"{name}: expected {expected}, got {got}")


def check_pixels(name: str, pixels: Any, *, ndim: int) -> None:
    """uint8 (..., height, width, 3), none of it empty, rows packed. A crop of a larger array is."""
    check(isinstance(pixels, np.ndarray), name, "a numpy array", type(pixels).__name__)
    check(pixels.dtype == np.uint8, name, "dtype uint8", pixels.dtype)
    check(pixels.ndim == ndim, name, f"{ndim} dimensions", f"shape {pixels.shape}")
    check(pixels.shape[-1] == 3, name, "3 channels last", f"shape {pixels.shape}")
    check(pixels.size > 0, name, "at least one pixel", f"shape {pixels.shape}")
    row_bytes, pixel_bytes, channel_bytes = pixels.strides[-3:]
    packed = (
        channel_bytes == 1
        and (pixel_bytes == 3 or pixels.shape[-2] == 1)
        and (row_bytes >= 3 * pixels.shape[-2] or pixels.shape[-3] == 1)
    )
    check(packed, name, "rows of packed RGB bytes", f"strides {pixels.strides}")


def check_mask(name: str, mask: Any, *, height: int, width: int) -> None:
    """bool or uint8 (height, width), rows packed; non-zero is inside."""
    check(isinstance(mask, np.ndarray), name, "a numpy array", type(mask).__name__)
    check(mask.dtype in (np.bool_, np.uint8), name, "dtype bool or uint8", mask.dtype)
    check(mask.shape == (height, width), name, f"shape {(height, width)}", f"shape {mask.shape}")
    packed = mask.strides[1] == 1 or width == 1
    check(packed, name, "rows of packed bytes", f"strides {mask.strides}")


def check_count(name: str, value: Any) -> None:
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    check(whole and value >= 1, name, "a whole number of at least 1", repr(value))


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    check(value in choices, name, f"one of {', '.join(choices)}", repr(value))


def check_per_channel(name: str, values: Sequence[float], *, positive: bool) -> None:
    """Three finite numbers."""
    numbers = list(values)
    fits = len(numbers) == 3 and all(isinstance(v, Real) and math.isfinite(v) for v in numbers)
    fits = fits and (not positive or min(numbers) > 0)
    kind = "positive finite" if positive else "finite"
    check(fits, name, f"three {kind} numbers", numbers)
