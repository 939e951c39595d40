"""The media store: ids, decoding, the byte budget, crops, folders, and errors that lose nothing."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pixelis_fast.tools_trt.results import ToolInputError
from pixelis_fast.tools_trt.store import MediaStore
from tests.media import clip, picture

FULL = (0, 0, 1000, 1000)


def noise(height, width, *, seed=0, channels=3, dtype=np.uint8):
    top = np.iinfo(dtype).max
    values = np.random.default_rng(seed).integers(0, top, (height, width, channels), endpoint=True)
    return values.astype(dtype)


def encoded(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


@pytest.fixture
def store():
    return MediaStore()


@pytest.mark.parametrize("name", ["page.png", "astronaut.png", "rocket.jpg", "coffee.png"])
def test_add_image_real_pictures(store, name):
    info = store.add_image(picture(name))
    expected = np.asarray(Image.open(picture(name)).convert("RGB"))
    assert (info.kind, info.height, info.width) == ("image", *expected.shape[:2])
    np.testing.assert_array_equal(store.image(info.id), expected)
    assert store.encoded(info.id) == picture(name).read_bytes()


def test_same_content_has_one_id_from_path_and_bytes(store):
    path = picture("coins.png")
    assert store.add_image(path) == store.add_image(path.read_bytes())


def test_two_encodings_share_pixels(store):
    image = noise(20, 30)
    one = store.add_image(encoded(Image.fromarray(image), format="PNG"))
    other = store.add_image(image)
    assert one.id != other.id
    assert store.pixels_id(one.id) == store.pixels_id(other.id)
    assert store.pixel_bytes == image.nbytes


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(store, orientation):
    upright = noise(24, 40)
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    info = store.add_image(encoded(Image.fromarray(turned), format="PNG", exif=exif))
    np.testing.assert_array_equal(store.image(info.id), upright)


def test_palette_grey_and_bilevel_become_rgb(store):
    grey = noise(16, 16, channels=1)[..., 0]
    palette = Image.fromarray(noise(16, 16)).quantize(8)
    bilevel = Image.fromarray(grey > 128)
    for image in (Image.fromarray(grey), palette, bilevel):
        info = store.add_image(encoded(image, format="PNG"))
        np.testing.assert_array_equal(store.image(info.id), np.asarray(image.convert("RGB")))


def test_sixteen_bits_keep_the_high_byte(store):
    grey = noise(16, 16, channels=1, dtype=np.uint16)[..., 0]
    for info in (
        store.add_image(encoded(Image.fromarray(grey), format="PNG")),
        store.add_image(grey),
    ):
        np.testing.assert_array_equal(store.image(info.id)[..., 1], grey >> 8)


def test_transparency_lies_over_white(store):
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2, :, 3] = 255
    for info in (
        store.add_image(encoded(Image.fromarray(rgba), format="PNG")),
        store.add_image(rgba),
    ):
        assert store.image(info.id)[0].max() == 0
        assert store.image(info.id)[3].min() == 255


def test_pixels_are_read_only_and_arrays_are_copied(store):
    image = noise(8, 8)
    info = store.add_image(image)
    before = store.image(info.id).copy()
    image[:] = 0
    np.testing.assert_array_equal(store.image(info.id), before)
    with pytest.raises(ValueError, match="read-only"):
        store.image(info.id)[0, 0] = 1


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"not a picture",
        lambda: picture("page.png").read_bytes()[:1000],
        lambda: picture("rocket.jpg").read_bytes()[:3000],
        b"\x93NUMPY broken",
        "no/such/file.png",
        np.zeros((3, 3, 2), np.uint8),
        np.zeros((0, 3, 3), np.uint8),
        np.zeros((3, 3, 3), np.float32),
    ],
    ids=["empty", "text", "cut-png", "cut-jpeg", "npy", "path", "channels", "no-pixels", "float"],
)
def test_broken_image_is_refused_and_nothing_is_lost(store, broken):
    kept = store.add_image(noise(8, 8))
    with pytest.raises(ToolInputError, match=r"expected .* got"):
        store.add_image(broken() if callable(broken) else broken)
    np.testing.assert_array_equal(store.image(kept.id), noise(8, 8))


def test_unknown_ids_and_wrong_kinds_are_refused(store):
    image = store.add_image(noise(8, 8))
    video = store.add_video(clip("carphone_pristine.mp4"))
    calls = [
        lambda: store.image("nothing"),
        lambda: store.info("nothing"),
        lambda: store.encoded("nothing"),
        lambda: store.image(video.id),
        lambda: store.frames(image.id, [0.0]),
        lambda: store.frame(image.id, 1.0),
        lambda: store.pixels_id(image.id, 1.0),
        lambda: store.index(image.id),
        lambda: store.export(["nothing"], "unused"),
    ]
    for call in calls:
        with pytest.raises(ToolInputError, match=r"expected .* got"):
            call()


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 0, 10),
        (5, 5, 4, 9),
        (0, 0, 10, 1001),
        (-1, 0, 5, 5),
        (0, 0, 5),
        (0, 0, 1.5, 9),
        (0, 0, None, 9),
    ],
)
def test_bad_boxes_are_refused(store, box):
    info = store.add_image(noise(8, 8))
    with pytest.raises(ToolInputError, match="box: expected"):
        store.add_crop(info.id, box, None, 4, 4)


def test_bad_crop_sizes_and_filters_are_refused(store):
    info = store.add_image(noise(8, 8))
    for width, height, filter in [(0, 4, "bicubic"), (4, 10**6, "bicubic"), (4, 4, "nearest")]:
        with pytest.raises(ToolInputError, match="expected"):
            store.add_crop(info.id, FULL, None, width, height, filter)


def test_crop_id_is_known_before_its_pixels(store):
    video = store.add_video(clip("carphone_pristine.mp4"))
    held = store.pixel_bytes
    one = store.add_crop(video.id, (0, 0, 500, 500), 1.0, 64, 64)
    same = store.add_crop(video.id, (0, 0, 500, 500), 1.001, 64, 64)
    other = store.add_crop(video.id, (0, 0, 500, 500), 2.0, 64, 64)
    assert store.pixel_bytes == held
    assert one == same != other
    assert len({store.add_crop(video.id, (0, 0, 500, 500), 1.0, w, 64).id for w in (63, 64)}) == 2


def test_crop_of_the_same_size_is_a_slice(store):
    image = noise(100, 200)
    info = store.add_image(image)
    crop = store.add_crop(info.id, (250, 100, 750, 400), None, 100, 30)
    np.testing.assert_array_equal(store.image(crop.id), image[10:40, 50:150])


def test_crop_equals_pil(store):
    info = store.add_image(picture("astronaut.png"))
    crop = store.add_crop(info.id, (250, 125, 500, 375), None, 300, 280)
    expected = Image.open(picture("astronaut.png")).crop((128, 64, 256, 192))
    expected = np.asarray(expected.resize((300, 280), Image.Resampling.BICUBIC))
    assert np.abs(store.image(crop.id).astype(int) - expected).max() <= 1


@given(order=st.lists(st.integers(0, 5), max_size=30))
def test_budget_holds_and_dropped_pixels_come_back(order):
    images = [noise(10, 10, seed=n) for n in range(6)]
    store = MediaStore(byte_budget=700)
    ids = [store.add_image(image).id for image in images]
    for n in order:
        np.testing.assert_array_equal(store.image(ids[n]), images[n])
        assert store.pixel_bytes <= 700


def test_least_recently_used_goes_first():
    store = MediaStore(byte_budget=700)
    first, second = (store.add_image(noise(10, 10, seed=n)).id for n in range(2))
    held = store.image(first)
    store.add_image(noise(10, 10, seed=2))
    assert store.image(first) is held
    again = store.image(second)
    np.testing.assert_array_equal(again, noise(10, 10, seed=1))


def test_crops_and_frames_survive_a_budget_of_nothing():
    store = MediaStore(byte_budget=0)
    video = store.add_video(clip("carphone_pristine.mp4"))
    crop = store.add_crop(video.id, (0, 0, 500, 500), 1.0, 88, 72)
    np.testing.assert_array_equal(store.image(crop.id), store.frame(video.id, 1.0)[:72, :88])
    assert store.pixel_bytes == 0


def test_threads_see_the_same_pixels():
    store = MediaStore(byte_budget=700)
    images = [noise(10, 10, seed=n) for n in range(6)]
    wrong = []

    def work(seed):
        order = np.random.default_rng(seed).integers(0, 6, 100)
        for n in order:
            info = store.add_image(images[n])
            if not np.array_equal(store.image(info.id), images[n]):
                wrong.append(n)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert not wrong
    assert store.pixel_bytes <= 700


def test_forgotten_media_and_their_crops_are_gone(store):
    kept, gone = store.add_image(noise(8, 8)), store.add_image(noise(8, 8, seed=1))
    crop = store.add_crop(gone.id, FULL, None, 4, 4)
    nested = store.add_crop(crop.id, FULL, None, 2, 2)
    other = store.add_crop(kept.id, FULL, None, 4, 4)
    store.forget(gone.id)
    assert [m.id in store for m in (kept, gone, crop, nested, other)] == [
        True, False, False, False, True
    ]  # fmt: skip
    with pytest.raises(ToolInputError, match="expected an id of the store"):
        store.forget(gone.id)
    assert store.add_image(noise(8, 8, seed=1)) == gone
    np.testing.assert_array_equal(store.image(gone.id), noise(8, 8, seed=1))


def test_export_and_import_folder(store, tmp_path):
    page = store.add_image(picture("page.png"))
    array = store.add_image(noise(10, 12))
    video = store.add_video(clip("carphone_pristine.mp4"))
    crop = store.add_crop(video.id, (0, 0, 500, 500), 1.0, 88, 72)
    nested = store.add_crop(crop.id, (0, 0, 500, 500), None, 44, 36)
    store.export([nested.id], tmp_path)
    store.export([page.id, array.id], tmp_path)

    other = MediaStore()
    infos = other.import_folder(tmp_path)
    assert {info.id for info in infos} == {page.id, array.id, video.id, crop.id, nested.id}
    for info in infos:
        assert other.info(info.id) == store.info(info.id)
        if info.kind == "image":
            np.testing.assert_array_equal(other.image(info.id), store.image(info.id))


def test_import_refuses_changed_and_missing_files(store, tmp_path):
    page = store.add_image(picture("page.png"))
    store.export([page.id], tmp_path)
    file = tmp_path / f"{page.id}.png"
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(ToolInputError, match="expected content"):
        MediaStore().import_folder(tmp_path)
    file.unlink()
    with pytest.raises(ToolInputError, match="no such file"):
        MediaStore().import_folder(tmp_path)
    with pytest.raises(ToolInputError, match=r"expected media\.json"):
        MediaStore().import_folder(tmp_path / "nothing")
