"""shrink: close to a direct area average, at every kind of size, and it keeps masks."""

import cv2
import numpy as np
import pytest

from pixelis_fast.tools_trt.classical.grabcut import resize_mask
from pixelis_fast.tools_trt.pixels.shrink import shrink
from tests.scenes import ellipse, iou, photograph

SIZES = [(600, 400), (300, 200), (96, 64), (97, 41), (31, 400), (1, 1), (700, 90), (900, 700)]


@pytest.mark.parametrize("size", SIZES)
def test_close_to_the_area_average(size):
    image = photograph("coffee.png")
    filtering = cv2.INTER_AREA if size < (600, 400) and size[1] <= 400 else cv2.INTER_LINEAR
    expected = cv2.resize(image, size, interpolation=filtering)
    assert shrink(image, size).shape == expected.shape
    assert np.abs(shrink(image, size).astype(int) - expected).mean() < 2.5


@pytest.mark.parametrize("size", [(80, 60), (60, 40), (9, 7)])
def test_odd_sides_and_one_channel(size):
    grey = np.ascontiguousarray(photograph("coffee.png")[:399, :597, 1])
    expected = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    assert np.abs(shrink(grey, size).astype(int) - expected).mean() < 2.5


@pytest.mark.parametrize("size", [(280, 200), (70, 50), (61, 47), (400, 300)])
def test_masks_keep_their_shape(size):
    mask = ellipse((200, 280), centre=(120, 90), axes=(60, 40))
    back = resize_mask(resize_mask(mask, size), (280, 200))
    assert back.dtype == bool
    assert iou(back, mask) > 0.94
