"""zoom: pixels equal PIL's, boxes are cut and grown, coordinates map back."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pixelis_fast.kernels.resize import resize
from pixelis_fast.kernels.resize.reference import weight_matrix as textbook_weights
from pixelis_fast.tools_trt.geometry import box_to_px, px_to_box
from pixelis_fast.tools_trt.pixels.resample import WEIGHT_BITS, resample, weight_matrix
from pixelis_fast.tools_trt.results import ToolInputError
from pixelis_fast.tools_trt.store import MediaStore
from pixelis_fast.tools_trt.zoom import (
    MAX_ASPECT,
    MIN_CROP_PX,
    Zoom,
    affine_to_original,
    shown_box,
    to_original,
)
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


PIL_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
SIZES = [(1, 1), (3, 700), (448, 448), (997, 61), (128, 512)]
"""(height, width): much smaller, wider, larger, and one axis kept."""


@pytest.mark.parametrize("filter", PIL_FILTERS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_resampled_tensors_equal_pil(filter, size):
    height, width = size
    image = Image.open(picture("astronaut.png")).convert("RGB").crop((0, 0, 512, 128))
    # Two passes: Pillow 13 turns the axes round for some sizes.
    wide = image.resize((width, 128), PIL_FILTERS[filter])
    expected = np.asarray(wide.resize((width, height), PIL_FILTERS[filter])).astype(int)
    found = resample(torch.tensor(np.asarray(image)), height, width, filter=filter)
    assert found.dtype == torch.uint8
    assert np.abs(found.numpy() - expected).max() <= 1
    on_host = resize(np.asarray(image), height, width, filter=filter)
    np.testing.assert_array_equal(found.numpy(), on_host)


@given(
    in_size=st.integers(1, 300),
    out_size=st.integers(1, 300),
    filter=st.sampled_from(sorted(PIL_FILTERS)),
)
def test_weights_are_the_textbook_ones(in_size, out_size, filter):
    found = weight_matrix(in_size, out_size, filter, device=torch.device("cpu"))
    expected = textbook_weights(in_size, out_size, filter) * 2**WEIGHT_BITS
    np.testing.assert_allclose(found, expected, atol=0.51)
    np.testing.assert_array_equal(found, found.round())


@pytest.mark.parametrize(
    "wrong",
    [
        {"pixels_HWC": torch.zeros(4, 4, 3)},
        {"pixels_HWC": torch.zeros(0, 4, 3, dtype=torch.uint8)},
        {"filter": "nearest"},
        {"height": 0},
    ],
    ids=["float", "empty", "filter", "height"],
)
def test_what_cannot_be_resampled_is_refused(wrong):
    arguments = {"pixels_HWC": torch.zeros(4, 4, 3, dtype=torch.uint8), "height": 2, "width": 2}
    with pytest.raises(ValueError, match=r"expected .* got"):
        resample(**{**arguments, "filter": "bicubic", **wrong})


def test_a_store_with_a_device_crops_there():
    host, device = MediaStore(), MediaStore(device="cpu")
    for store in (host, device):
        photo = store.add_image(picture("astronaut.png"))
    zooms = [Zoom(store)(photo.id, (100, 200, 433, 555)) for store in (host, device)]
    assert [zoom.engine for zoom in zooms] == ["cpu:bicubic", "torch-cpu:bicubic"]
    assert zooms[0].media_id == zooms[1].media_id
    tensor = device.tensor(zooms[1].media_id)
    np.testing.assert_array_equal(tensor.numpy(), device.image(zooms[1].media_id))
    np.testing.assert_array_equal(
        *(s.image(z.media_id) for s, z in zip((host, device), zooms, strict=True))
    )


def test_a_crop_of_a_crop_and_of_a_frame_on_a_device():
    store = MediaStore(device="cpu")
    video = store.add_video(clip("bikes.mp4"))
    outer = store.add_crop(video.id, (100, 100, 900, 900), 2.0, 512, 218)
    inner = store.add_crop(outer.id, (0, 0, 500, 500), None, 300, 128, "lanczos")
    x0, y0, x1, y1 = box_to_px((100, 100, 900, 900), 640, 272)
    part_HWC = store.frame(video.id, 2.0)[y0:y1, x0:x1]
    expected = resize(resize(part_HWC, 218, 512)[:109, :256], 128, 300, filter="lanczos")
    np.testing.assert_array_equal(store.tensor(inner.id).numpy(), expected)
    assert store.tensor(video.id, 2.0).shape == (272, 640, 3)
    with pytest.raises(ToolInputError, match="time: expected none"):
        store.tensor(inner.id, 1.0)


def test_a_store_of_the_host_has_no_tensors():
    store = MediaStore()
    media = store.add_image(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ToolInputError, match="expected a store with a device"):
        store.tensor(media.id)


@pytest.mark.gpu
def test_crops_on_a_gpu_equal_pil():
    store = MediaStore(device="cuda", device_bytes=1 << 20)
    photo = store.add_image(picture("astronaut.png"))
    result = Zoom(store)(photo.id, (100, 200, 400, 700))
    image = Image.open(picture("astronaut.png")).convert("RGB")
    part = image.crop(box_to_px((100, 200, 400, 700), image.width, image.height))
    expected = np.asarray(part.resize((result.width, result.height), Image.Resampling.BICUBIC))
    assert store.tensor(result.media_id).is_cuda
    assert np.abs(store.image(result.media_id).astype(int) - expected).max() <= 1


def test_the_affine_maps_pixels_to_the_original():
    """A bright pixel of the crop lies where the matrix says."""
    image = np.zeros((300, 400, 3), np.uint8)
    image[150:160, 240:250] = 255
    store = MediaStore()
    media = store.add_image(image)
    first = Zoom(store)(media.id, (500, 400, 750, 700))
    second = Zoom(store)(first.media_id, (200, 100, 900, 800))
    assert second.original_id == first.original_id == media.id
    for result in (first, second):
        pixels = store.image(result.media_id)[..., 0].astype(float)
        rows, columns = np.mgrid[: result.height, : result.width] + 0.5
        centre = [(axis * pixels).sum() / pixels.sum() for axis in (columns, rows)]
        found = np.array(result.affine) @ [*centre, 1]
        np.testing.assert_allclose(found, (245, 155), atol=0.2)


def test_the_affine_of_added_media_is_the_identity():
    store = MediaStore()
    media = store.add_image(np.zeros((3, 4, 3), np.uint8))
    assert affine_to_original(store, media.id) == (media.id, ((1, 0, 0), (0, 1, 0)))
