"""What a mask covers, measured in one pass: area, box, centroid, mean colour, direction, length.

A pixel counts as a unit square, so a line of n pixels has elongation n and nothing is infinite.

Shapes: H, W = size of the image, C = 3.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixelis_fast.kernels import _cpu
from pixelis_fast.kernels.checks import check_mask, check_pixels


@dataclass(frozen=True)
class RegionProperties:
    """In pixels of the image.

    Example:
        RegionProperties(area_px=6, box_px=(2, 1, 5, 3), centroid_px=(3.0, 1.5),
                         mean_rgb=(255.0, 0.0, 0.0), orientation_deg=0.0, elongation=1.5)
    """

    area_px: int
    box_px: tuple[int, int, int, int]
    """x0, y0, x1, y1; x1 and y1 are exclusive."""
    centroid_px: tuple[float, float]
    """x, y; the first pixel's centre is 0."""
    mean_rgb: tuple[float, float, float]
    """0..255."""
    orientation_deg: float
    """Of the major axis to the x axis, in (-90, 90], counter-clockwise positive as seen."""
    elongation: float
    """Major over minor axis of the ellipse with the same second moments, >= 1."""


def region_properties(mask_HW: NDArray[Any], image_HWC: NDArray[np.uint8]) -> RegionProperties:
    """bool or uint8 (H, W), (H, W, 3) -> properties of the pixels where the mask is not zero."""
    check_pixels("image_HWC", image_HWC, ndim=3)
    height, width, _ = image_HWC.shape
    check_mask("mask_HW", mask_HW, height=height, width=width)
    return RegionProperties(*_cpu.region_properties(mask_HW.view(np.uint8), image_HWC))
