"""zoom: pixels equal PIL's, boxes are cut and grown, coordinates map back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pixelis_fast.tools_trt.geometry import box_to_px, px_to_box
from pixelis_fast.tools_trt.results import ToolInputError
from pixelis_fast.tools_trt.store import MediaStore
from pixelis_fast.tools_trt.zoom import MAX_ASPECT, MIN_CROP_PX, Zoom, shown_box, to_original
from tests.media import clip, picture

UNIT = st.integers(0, 1000)


@st.composite
def boxes(draw):
    x0, x1 = sorted(draw(st.lists(UNIT, min_size=2, max_size=2, unique=True)))
    y0, y1 = sorted(draw(st.lists(UNIT, min_size=2, max_size=2, unique=True)))
    return x0, y0, x1, y1


@pytest.mark.parametrize("name", ["page.png", "astronaut.png", "rocket.jpg"])
@pytest.mark.parametrize("box", [(0, 0, 1000, 1000), (100, 200, 400, 700), (900, 900, 1000, 1000)])
def test_zoom_equals_pil(name, box):
    store = MediaStore()
    media = store.add_image(picture(name))
    result = Zoom(store)(media.id, box)
    image = Image.open(picture(name)).convert("RGB")
    part = image.crop(box_to_px(box, image.width, image.height))
    expected = np.asarray(part.resize((result.width, result.height), Image.Resampling.BICUBIC))
    assert result.box == box
    assert result.degraded is None
    assert np.abs(store.image(result.media_id).astype(int) - expected).max() <= 1


def test_zoom_on_a_frame():
    store = MediaStore()
    video = store.add_video(clip("bikes.mp4"))
    early = Zoom(store)(video.id, (0, 0, 500, 500), time_s=1.0)
    late = Zoom(store)(video.id, (0, 0, 500, 500), time_s=8.0)
    assert early.media_id != late.media_id
    assert not np.array_equal(store.image(early.media_id), store.image(late.media_id))


@pytest.mark.parametrize(
    ("box", "long_side"), [((0, 0, 50, 100), 448), ((0, 0, 300, 300), 600), ((0, 0, 1000, 9), 1024)]
)
def test_long_side_stays_within_limits(box, long_side):
    store = MediaStore()
    media = store.add_image(np.zeros((1000, 2000, 3), np.uint8))
    result = Zoom(store)(media.id, box, max_side=1024)
    assert max(result.width, result.height) == long_side
    assert store.image(result.media_id).shape == (result.height, result.width, 3)


def test_a_box_past_the_frame_is_cut():
    assert shown_box((-50, 900, 400, 1200), 1000, 1000) == (0, 900, 400, 1000)


@pytest.mark.parametrize(
    "box", [(1000, 0, 1200, 10), (-9, 0, 0, 10), (5, 5, 5, 9), (9, 0, 5, 9), (1, 2, 3)]
)
def test_a_box_that_shows_nothing_is_refused(box):
    store = MediaStore()
    media = store.add_image(np.zeros((50, 50, 3), np.uint8))
    with pytest.raises(ToolInputError, match="box: expected"):
        Zoom(store)(media.id, box)


def test_bad_sides_are_refused():
    store = MediaStore()
    media = store.add_image(np.zeros((50, 50, 3), np.uint8))
    with pytest.raises(ToolInputError, match="max_side: expected"):
        Zoom(store)(media.id, (0, 0, 10, 10), max_side=10)


@given(box=boxes(), width=st.integers(1, 3000), height=st.integers(1, 3000))
def test_shown_box_contains_the_box_and_is_no_sliver(box, width, height):
    shown = shown_box(box, width, height)
    assert shown[0] <= box[0] < box[2] <= shown[2]
    assert shown[1] <= box[1] < box[3] <= shown[3]
    x0, y0, x1, y1 = box_to_px(shown, width, height)
    assert x1 - x0 >= min(MIN_CROP_PX, width)
    assert y1 - y0 >= min(MIN_CROP_PX, height)
    # One pixel each way is what rounding outwards can add.
    assert (x1 - x0 - 2) <= MAX_ASPECT * (y1 - y0) or y1 - y0 == height
    assert (y1 - y0 - 2) <= MAX_ASPECT * (x1 - x0) or x1 - x0 == width


@given(box=boxes(), width=st.integers(1, 3000), height=st.integers(1, 3000))
def test_boxes_and_pixels_agree_within_a_pixel(box, width, height):
    px = box_to_px(box, width, height)
    assert 0 <= px[0] < px[2] <= width
    assert 0 <= px[1] < px[3] <= height
    back = px_to_box(px, width, height)
    for value, other, size in zip(box, back, (width, height) * 2, strict=True):
        assert abs(value - other) <= 1000 / size + 1


@given(box=boxes(), inner=boxes(), innermost=boxes())
def test_to_original_inverts_zooms(box, inner, innermost):
    store = MediaStore(byte_budget=0)
    media = store.add_image(np.zeros((900, 1600, 3), np.uint8))
    size = (1600, 900) * 2
    outer = store.add_crop(media.id, box, None, 64, 64)
    nested = store.add_crop(outer.id, inner, None, 32, 32)
    found_id, found = to_original(store, nested.id, innermost)
    box_px = box_to_px(box, 1600, 900)
    inner_px = box_to_px(inner, 64, 64)
    side = (inner_px[2] - inner_px[0], inner_px[3] - inner_px[1]) * 2
    outer_side = (box_px[2] - box_px[0], box_px[3] - box_px[1]) * 2
    assert found_id == media.id
    for n in range(4):
        on_outer = (inner_px[n % 2] + innermost[n] / 1000 * side[n]) / 64
        expected = (box_px[n % 2] + on_outer * outer_side[n]) / size[n] * 1000
        assert abs(found[n] - expected) <= 2


def test_results_change_with_the_pixels():
    store = MediaStore()
    ids = [store.add_image(picture(name)).id for name in ("page.png", "coins.png")]
    crops = [store.image(Zoom(store)(media_id, (0, 0, 500, 500)).media_id) for media_id in ids]
    assert abs(crops[0].mean() - crops[1].mean()) > 5
