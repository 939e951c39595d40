"""The textbook measurement: coordinates of the inside pixels, their mean and covariance.

Shapes: H, W = size of the image, C = 3, A = pixels inside.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixelis_fast.kernels.region.op import RegionProperties

PIXEL_MOMENT = 1 / 12
"""Second moment of a unit square about its centre."""


def region_properties_reference(
    mask_HW: NDArray[Any], image_HWC: NDArray[np.uint8]
) -> RegionProperties:
    y_A, x_A = np.nonzero(mask_HW)
    covariance = np.cov(np.stack([x_A, y_A]), bias=True) + PIXEL_MOMENT * np.eye(2)
    (minor, major), axes = np.linalg.eigh(covariance)
    # y points down, so the seen angle has the opposite sign; an axis has no front and no back.
    angle = np.degrees(np.arctan2(-axes[1, 1], axes[0, 1]))
    orientation = 90 - (90 - angle) % 180
    red, green, blue = image_HWC[y_A, x_A].mean(axis=0).tolist()
    return RegionProperties(
        area_px=len(x_A),
        box_px=(int(x_A.min()), int(y_A.min()), int(x_A.max()) + 1, int(y_A.max()) + 1),
        centroid_px=(float(x_A.mean()), float(y_A.mean())),
        mean_rgb=(red, green, blue),
        orientation_deg=float(orientation),
        elongation=float(np.sqrt(major / minor)),
    )
