"""Antialiased resize of a uint8 RGB image, with Pillow's filters, weights and rounding.

Always horizontal first, then vertical. Pillow 13 turns the order round when height shrinks much
more than width; what comes out here does not depend on the Pillow that is installed.

Shapes: H, W = input size, C = 3.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pixelis_fast.kernels import _cpu
from pixelis_fast.kernels.checks import check_choice, check_count, check_pixels

Filter = Literal["bicubic", "bilinear", "lanczos", "box"]
FILTERS = ("bicubic", "bilinear", "lanczos", "box")


def resize(
    image_HWC: NDArray[np.uint8],
    height: int,
    width: int,
    *,
    filter: Filter = "bicubic",
    threads: int = 1,
) -> NDArray[np.uint8]:
    """(H, W, 3) -> (height, width, 3). Equals `image.resize((width, H), filter)` followed by
    `.resize((width, height), filter)` in Pillow, bit for bit. A crop view needs no copy."""
    check_pixels("image_HWC", image_HWC, ndim=3)
    check_count("height", height)
    check_count("width", width)
    check_choice("filter", filter, FILTERS)
    check_count("threads", threads)
    return _cpu.resize(image_HWC, height, width, filter, threads)
