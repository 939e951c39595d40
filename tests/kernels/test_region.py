"""region_properties against scikit-image and the textbook, on shapes and photographs."""

import numpy as np
import pytest
from skimage import data, draw, measure

from pixelis_fast.kernels import _cpu
from pixelis_fast.kernels.region import region_properties
from pixelis_fast.kernels.region.reference import region_properties_reference

PIXEL_MOMENT = 1 / 12


def ellipse(angle_deg: float) -> np.ndarray:
    """Major axis 60, minor 20, turned counter-clockwise as seen."""
    mask = np.zeros((200, 180), bool)
    mask[draw.ellipse(95, 90, 20, 60, rotation=np.radians(angle_deg))] = True
    return mask


def coin(label: int) -> np.ndarray:
    labels = measure.label(data.coins() > 150)
    sizes = np.bincount(labels.ravel())[1:]
    return labels == 1 + np.argsort(sizes)[-label]


def scattered() -> np.ndarray:
    return np.random.default_rng(0).random((70, 3000)) < 0.01


def single(y: int, x: int) -> np.ndarray:
    mask = np.zeros((5, 131), bool)
    mask[y, x] = True
    return mask


MASKS = {
    "full": np.ones((33, 65), bool),
    "first pixel": single(0, 0),
    "last pixel": single(4, 130),
    "two far rows": single(0, 64) | single(4, 3),
    "scattered": scattered(),
    "coin": coin(1),
    "second coin": coin(2),
    **{f"ellipse {a}": ellipse(a) for a in (0, 30, 45, 89, 120, 170)},
}


def image_for(mask: np.ndarray) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (*mask.shape, 3), dtype=np.uint8)


def angle_between(a: float, b: float) -> float:
    """Of two axes, in degrees: 89 and -90 are one apart."""
    return abs((a - b + 90) % 180 - 90)


def assert_same(ours, expected) -> None:
    assert ours.area_px == expected.area_px
    assert ours.box_px == expected.box_px
    assert ours.centroid_px == pytest.approx(expected.centroid_px)
    assert ours.mean_rgb == pytest.approx(expected.mean_rgb)
    assert ours.elongation == pytest.approx(expected.elongation)
    if expected.elongation > 1.001:
        assert angle_between(ours.orientation_deg, expected.orientation_deg) < 1e-4


@pytest.mark.parametrize("name", MASKS)
def test_region_properties(name):
    mask, image = MASKS[name], image_for(MASKS[name])
    ours = region_properties(mask, image)
    region = measure.regionprops(mask.astype(np.uint8), intensity_image=image)[0]
    top, left, bottom, right = region.bbox
    assert ours.area_px == region.num_pixels
    assert ours.box_px == (left, top, right, bottom)
    assert ours.centroid_px == pytest.approx(region.centroid[::-1])
    assert ours.mean_rgb == pytest.approx(tuple(region.intensity_mean))
    # scikit-image takes pixels for points; ours are unit squares.
    major, minor = (value + PIXEL_MOMENT for value in region.inertia_tensor_eigvals)
    assert ours.elongation == pytest.approx(np.sqrt(major / minor), rel=1e-6)
    if ours.elongation > 1.001:
        # Its angle is measured from the row axis.
        assert angle_between(ours.orientation_deg, np.degrees(region.orientation) + 90) < 1e-4


@pytest.mark.parametrize("name", MASKS)
def test_region_properties_equals_the_textbook(name):
    mask, image = MASKS[name], image_for(MASKS[name])
    assert_same(region_properties(mask, image), region_properties_reference(mask, image))


@pytest.mark.parametrize("simd", _cpu.simd_levels())
@pytest.mark.parametrize("name", MASKS)
def test_every_level_gives_the_same_numbers(name, simd):
    mask, image = MASKS[name].view(np.uint8), image_for(MASKS[name])
    expected = _cpu.region_properties(mask, image, simd="baseline")
    assert _cpu.region_properties(mask, image, simd=simd) == expected


@pytest.mark.parametrize("angle", [0, 30, 45, 89, 120, 170])
def test_orientation_of_a_turned_ellipse(angle):
    ours = region_properties(ellipse(angle), image_for(ellipse(angle)))
    assert angle_between(ours.orientation_deg, angle) < 1
    assert ours.elongation == pytest.approx(3, rel=0.02)


def test_a_rectangle_is_as_long_as_its_sides_say():
    mask = np.zeros((40, 90), bool)
    mask[3:35, 7:15] = True
    ours = region_properties(mask, image_for(mask))
    assert ours.elongation == pytest.approx(32 / 8)
    assert ours.orientation_deg == 90
    assert region_properties(mask.T.copy(), image_for(mask.T)).orientation_deg == 0


def test_any_byte_but_zero_is_inside():
    mask, image = coin(1), data.coins()[..., None].repeat(3, axis=-1)
    values = np.where(mask, np.random.default_rng(3).integers(1, 256, mask.shape), 0)
    ours = region_properties(values.astype(np.uint8), image)
    assert ours == region_properties(mask, image)


def test_the_pixels_decide_the_colour():
    image = data.astronaut()
    mask = np.zeros(image.shape[:2], bool)
    mask[:100, :100] = True
    before = region_properties(mask, image).mean_rgb
    assert before == pytest.approx(tuple(image[:100, :100].reshape(-1, 3).mean(axis=0)))
    assert region_properties(mask, 255 - image).mean_rgb == pytest.approx([255 - v for v in before])


def test_views_of_mask_and_image_equal_their_copies():
    image, mask = data.coffee()[30:200, 15:300], np.ones((400, 600), bool)[30:200, 15:300]
    assert region_properties(mask, image) == region_properties(mask.copy(), image.copy())


IMAGE = np.zeros((4, 6, 3), np.uint8)
BAD = [
    (np.zeros((4, 6), bool), IMAGE, "mask_HW: expected at least one pixel inside, got none"),
    (np.ones((6, 4), bool), IMAGE, r"mask_HW: expected shape \(4, 6\), got shape \(6, 4\)"),
    (np.ones((4, 6), np.int64), IMAGE, "mask_HW: expected dtype bool or uint8, got int64"),
    (np.ones((6, 4), bool).T, IMAGE, "mask_HW: expected rows of packed bytes"),
    (None, IMAGE, "mask_HW: expected a numpy array, got NoneType"),
    (np.ones((4, 6), bool), IMAGE[..., 0], "image_HWC: expected 3 dimensions"),
    (np.ones((4, 6), bool), IMAGE / 2, "image_HWC: expected dtype uint8, got float64"),
]


@pytest.mark.parametrize(("mask", "image", "message"), BAD, ids=[b[2][:40] for b in BAD])
def test_bad_input_is_one_clear_error(mask, image, message):
    with pytest.raises(ValueError, match=message):
        region_properties(mask, image)
