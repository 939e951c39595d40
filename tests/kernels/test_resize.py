"""resize against Pillow (bit for bit), the textbook (one step), and itself at every level."""

import numpy as np
import pytest
from PIL import Image
from skimage import data

from pixelis_fast.kernels import _cpu
from pixelis_fast.kernels.resize import resize
from pixelis_fast.kernels.resize.reference import resize_reference

PILLOW = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
SIZES = [
    ((1, 1), (1, 1)),
    ((1, 7), (5, 1)),
    ((3, 2), (64, 33)),
    ((63, 257), (64, 256)),
    ((100, 90), (100, 45)),
    ((100, 90), (31, 90)),
    ((191, 384), (7, 1000)),
    ((5, 1000), (300, 3)),
]
"""One pixel, ragged groups, each pass alone, both directions far apart."""


def noise(height: int, width: int) -> np.ndarray:
    """Black and white channels: the overshoot of the filters is clipped as often as it can be."""
    generator = np.random.default_rng(height * 1009 + width)
    return np.where(generator.random((height, width, 3)) < 0.5, 0, 255).astype(np.uint8)


def pillow_resize(image: np.ndarray, height: int, width: int, filter: str) -> np.ndarray:
    """Two calls of one axis each: Pillow 13 chooses the order of axes by size, 12 did not."""
    across = Image.fromarray(image).resize((width, image.shape[0]), PILLOW[filter])
    return np.asarray(across.resize((width, height), PILLOW[filter]))


@pytest.mark.parametrize("simd", _cpu.simd_levels())
@pytest.mark.parametrize("filter", PILLOW)
@pytest.mark.parametrize(("size", "target"), SIZES, ids=str)
def test_resize(size, target, filter, simd):
    image = noise(*size)
    resized = _cpu.resize(image, *target, filter, 1, simd=simd)
    np.testing.assert_array_equal(resized, pillow_resize(image, *target, filter))


@pytest.mark.parametrize("filter", PILLOW)
@pytest.mark.parametrize(("size", "target"), SIZES, ids=str)
def test_resize_is_within_one_of_the_textbook(size, target, filter):
    image = noise(*size)
    expected = resize_reference(image, *target, filter=filter)
    assert np.abs(resize(image, *target, filter=filter) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize("name", ["astronaut", "coffee", "rocket", "retina"])
@pytest.mark.parametrize("target", [(224, 224), (480, 672)], ids=str)
def test_resize_on_photographs(name, target):
    image = getattr(data, name)()
    np.testing.assert_array_equal(resize(image, *target), pillow_resize(image, *target, "bicubic"))


def test_resize_at_random_sizes():
    generator = np.random.default_rng(0)
    for _ in range(60):
        height, width, to_height, to_width = np.exp(generator.uniform(0, 5.5, 4)).astype(int)
        filter = str(generator.choice(list(PILLOW)))
        image = noise(height, width)
        expected = pillow_resize(image, to_height, to_width, filter)
        for simd in _cpu.simd_levels():
            resized = _cpu.resize(image, to_height, to_width, filter, 2, simd=simd)
            np.testing.assert_array_equal(resized, expected, err_msg=f"{simd} {filter}")


@pytest.mark.parametrize("threads", [2, 3, 64])
def test_threads_change_nothing(threads):
    image = noise(97, 61)
    np.testing.assert_array_equal(
        resize(image, 53, 119, threads=threads), resize(image, 53, 119, threads=1)
    )


def test_a_crop_view_equals_its_copy():
    image = data.astronaut()
    crop = image[100:230, 41:300]
    assert not crop.flags.c_contiguous
    np.testing.assert_array_equal(resize(crop, 64, 96), resize(crop.copy(), 64, 96))


def test_the_last_pixels_of_an_image_see_nothing_behind_it():
    """Vector loads read past a row's end; what lies there must not matter."""
    buffer = noise(40, 50)
    image = buffer[:33, :43]
    before = resize(image, 20, 90)
    buffer[33:] = 255 - buffer[33:]
    buffer[:, 43:] = 255 - buffer[:, 43:]
    np.testing.assert_array_equal(resize(image, 20, 90), before)


def test_same_size_is_a_copy():
    image = noise(9, 11)
    resized = resize(image, 9, 11)
    np.testing.assert_array_equal(resized, image)
    assert not np.shares_memory(resized, image)


BAD = [
    (np.zeros((4, 4, 3), np.float32), {}, "image_HWC: expected dtype uint8, got float32"),
    (np.zeros((4, 4), np.uint8), {}, r"image_HWC: expected 3 dimensions, got shape \(4, 4\)"),
    (np.zeros((4, 4, 4), np.uint8), {}, "image_HWC: expected 3 channels last, got shape"),
    (np.zeros((0, 4, 3), np.uint8), {}, "image_HWC: expected at least one pixel, got shape"),
    (np.zeros((3, 4, 4), np.uint8).transpose(1, 2, 0), {}, "image_HWC: expected rows of packed"),
    (np.zeros((4, 4, 3), np.uint8)[::-1], {}, "image_HWC: expected rows of packed RGB bytes"),
    ([[[0, 0, 0]]], {}, "image_HWC: expected a numpy array, got list"),
    (np.zeros((4, 4, 3), np.uint8), {"height": 0}, "height: expected a whole number of at least 1"),
    (np.zeros((4, 4, 3), np.uint8), {"width": 2.5}, r"width: expected .*, got 2\.5"),
    (np.zeros((4, 4, 3), np.uint8), {"threads": 0}, "threads: expected a whole number"),
    (np.zeros((4, 4, 3), np.uint8), {"filter": "nearest"}, "filter: expected one of .* 'nearest'"),
]


@pytest.mark.parametrize(("image", "wrong", "message"), BAD, ids=[b[2][:40] for b in BAD])
def test_bad_input_is_one_clear_error(image, wrong, message):
    with pytest.raises(ValueError, match=message):
        resize(image, **({"height": 4, "width": 4} | wrong))


def test_checks_in_cpp_are_value_errors():
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="filter: expected box, bilinear"):
        _cpu.resize(image, 4, 4, "nearest", 1)
    with pytest.raises(ValueError, match="simd: expected one of baseline"):
        _cpu.resize(image, 4, 4, "box", 1, simd="mmx")
    with pytest.raises(ValueError, match="height: expected 1 to"):
        _cpu.resize(image, 0, 4, "box", 1)
