"""properties: known shapes, real pixels, colour names, and masks that do not fit."""

import cv2
import numpy as np
import pytest
from matplotlib.colors import CSS4_COLORS
from skimage.color import rgb2lab

from pixelis_fast.tools_trt.color_names import ANCHORS, color_name, to_lab
from pixelis_fast.tools_trt.properties import Properties
from pixelis_fast.tools_trt.results import ToolInputError
from pixelis_fast.tools_trt.rle import encode_mask
from pixelis_fast.tools_trt.store import MediaStore
from tests.media import clip, picture

COLORS = {
    "red": (220, 20, 30),
    "green": (30, 160, 50),
    "blue": (40, 60, 200),
    "yellow": (250, 220, 30),
    "orange": (250, 130, 20),
    "purple": (130, 50, 150),
    "pink": (250, 150, 190),
    "brown": (110, 65, 35),
    "black": (15, 15, 15),
    "white": (250, 250, 248),
    "gray": (125, 128, 126),
    "cyan": (40, 220, 230),
}


@pytest.fixture
def store():
    return MediaStore()


def ellipse(height, width, *, center, axes, angle):
    mask = cv2.ellipse(np.zeros((height, width), np.uint8), center, axes, angle, 0, 360, 1, -1)
    return mask.astype(bool)


@pytest.mark.parametrize("color", COLORS)
def test_rectangle(store, color):
    image = np.full((200, 400, 3), 90, np.uint8)
    mask = np.zeros((200, 400), bool)
    mask[50:90, 100:300] = True
    image[mask] = COLORS[color]
    result = Properties(store)(store.add_image(image).id, encode_mask(mask))
    assert result.area_px == 40 * 200
    assert result.area_permille == 100
    assert result.box == (250, 250, 750, 450)
    assert result.centroid == (500, 350)
    assert result.color_rgb == COLORS[color]
    assert result.color_name == color
    assert result.orientation_deg == 0
    assert result.elongation == pytest.approx(5)


@pytest.mark.parametrize("angle", [-60, -30, 20, 75])
def test_ellipse_direction(store, angle):
    image = np.zeros((300, 300, 3), np.uint8)
    # y points down in a picture, so OpenCV's angle is clockwise as seen.
    mask = ellipse(300, 300, center=(150, 150), axes=(90, 30), angle=-angle)
    result = Properties(store)(store.add_image(image).id, encode_mask(mask))
    assert result.orientation_deg == pytest.approx(angle, abs=1)
    assert result.elongation == pytest.approx(3, rel=0.05)


def test_real_pixels(store):
    image = store.image(store.add_image(picture("coffee.png")).id)
    media = store.add_image(picture("coffee.png"))
    mask = ellipse(400, 600, center=(270, 200), axes=(80, 60), angle=0)
    result = Properties(store)(media.id, encode_mask(mask))
    assert result.color_rgb == tuple(np.round(image[mask].mean(0)).astype(int))
    elsewhere = Properties(store)(media.id, encode_mask(mask[:, ::-1]))
    assert elsewhere.color_rgb != result.color_rgb


def test_on_a_frame(store):
    video = store.add_video(clip("carphone_pristine.mp4"))
    mask = np.zeros((144, 176), bool)
    mask[20:60, 30:90] = True
    result = Properties(store)(video.id, encode_mask(mask), time_s=2.0)
    mean = store.frame(video.id, 2.0)[mask].mean(0)
    assert result.color_rgb == tuple(np.round(mean).astype(int))


def test_masks_that_do_not_fit_are_refused(store):
    media = store.add_image(np.zeros((20, 30, 3), np.uint8))
    properties = Properties(store)
    with pytest.raises(ToolInputError, match="mask: expected size"):
        properties(media.id, encode_mask(np.ones((30, 20), bool)))
    with pytest.raises(ToolInputError, match="empty mask"):
        properties(media.id, encode_mask(np.zeros((20, 30), bool)))


def test_every_anchor_has_its_own_name():
    for name, rgb in ANCHORS:
        assert color_name(rgb) == name


def test_to_lab_equals_scikit_image():
    rgb = np.random.default_rng(0).integers(0, 256, (50, 3))
    np.testing.assert_allclose(to_lab(rgb), rgb2lab(rgb / 255), atol=0.02)


@pytest.mark.parametrize("name", ["red", "green", "blue", "yellow", "orange", "purple"])
def test_web_colors_that_bear_a_name_get_it(name):
    """CSS colours such as darkred or royalblue, but for the mixed ones."""
    mixed = {"blueviolet", "greenyellow", "yellowgreen", "orangered", "powderblue", "rosybrown"}
    mixed |= {"palevioletred", "indianred", "aliceblue", "cadetblue", "lightyellow", "sandybrown"}
    mixed |= {"lightgoldenrodyellow", "darkslateblue", "mediumvioletred", "lightseagreen"}
    mixed |= {"darkolivegreen", "slateblue", "mediumslateblue", "lightblue", "lightsteelblue"}
    colors = {css: rgb for css, rgb in CSS4_COLORS.items() if name in css and css not in mixed}
    rgb = {
        css: tuple(int(value[n : n + 2], 16) for n in (1, 3, 5)) for css, value in colors.items()
    }
    assert {css: color_name(value) for css, value in rgb.items()} == dict.fromkeys(rgb, name)
