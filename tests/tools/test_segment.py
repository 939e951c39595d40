"""segment: known objects in real photographs and exact scenes, and calls that do not fit."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.filters import sobel
from skimage.segmentation import watershed

from pixelis_fast.tools_trt.classical.segment import ClassicalSegment
from pixelis_fast.tools_trt.results import ToolError, ToolInputError
from pixelis_fast.tools_trt.rle import decode_mask
from pixelis_fast.tools_trt.segment import Segment
from pixelis_fast.tools_trt.store import MediaStore
from tests.media import clip
from tests.scenes import box_px, ellipse, iou, mission_patch, moving, photograph, units


@pytest.fixture
def store():
    return MediaStore()


def coins():
    """The photograph and its 24 coins, found by a watershed on the edges: another method."""
    image = photograph("coins.png")
    markers = np.where(image[..., 0] < 30, 1, np.where(image[..., 0] > 150, 2, 0))
    filled = ndimage.binary_fill_holes(watershed(sobel(image[..., 0]), markers) - 1)
    labels, count = ndimage.label(filled)
    masks = [labels == n for n in range(1, count + 1)]
    return image, [mask for mask in masks if mask.sum() > 300]


def inner_point(mask):
    distance = ndimage.distance_transform_edt(mask)
    y, x = np.unravel_index(distance.argmax(), mask.shape)
    return int(x), int(y)


def as_units(point, size):
    return point[0] * 1000 // size[1] + 1, point[1] * 1000 // size[0] + 1


@pytest.mark.parametrize("prompt", ["box", "point"])
def test_coins(store, prompt):
    image, masks = coins()
    assert len(masks) == 24
    media = store.add_image(image)
    segment = Segment(store, ClassicalSegment())
    scores = []
    for mask in masks[::3]:
        size = mask.shape
        if prompt == "box":
            result = segment(media.id, box=units(box_px(mask), size))
        else:
            result = segment(media.id, point=as_units(inner_point(mask), size))
        scores.append(iou(decode_mask(result.mask), mask))
    assert np.mean(scores) > 0.95
    assert min(scores) > 0.9


@pytest.mark.parametrize(
    ("name", "centre", "axes", "least"),
    [("astronaut.png", (170, 386), (36, 36), 0.9), ("retina.jpg", (707, 705), (680, 685), 0.9)],
    ids=["mission patch", "retina"],
)
def test_real_objects(store, name, centre, axes, least):
    image = photograph(name)
    if name == "retina.jpg":
        labels, _ = ndimage.label(image.max(2) > 25)
        mask = ndimage.binary_fill_holes(labels == labels[centre[1], centre[0]])
    else:
        mask = ellipse(image.shape[:2], centre=centre, axes=axes)
    media = store.add_image(image)
    segment = Segment(store, ClassicalSegment())
    for prompt in (
        {"box": units(box_px(mask), mask.shape)},
        {"point": as_units(inner_point(mask), mask.shape)},
    ):
        result = segment(media.id, **prompt)
        assert iou(decode_mask(result.mask), mask) > least, prompt


def test_result_describes_the_mask(store):
    frames, masks = moving(mission_patch(), photograph("coffee.png"), path=[(140, 100)])
    media = store.add_image(frames[0])
    result = Segment(store, ClassicalSegment())(media.id, box=units(box_px(masks[0]), (200, 280)))
    mask = decode_mask(result.mask)
    assert iou(mask, masks[0]) > 0.95
    assert result.mask["size"] == [200, 280]
    assert result.area_permille == pytest.approx(1000 * mask.mean())
    expected = units(box_px(mask), (200, 280))
    assert np.abs(np.subtract(result.box, expected)).max() <= 4
    assert result.engine == "classical:grabcut"
    assert "no SAM 2 weights" in result.degraded
    assert result.stage_ms.run > 0
    assert result.stage_ms.pre > 0
    assert result.stage_ms.post > 0


def test_follows_the_pixels(store):
    """The same box on other pixels gives another mask; on the same pixels, the same."""
    left, right = moving(mission_patch(), photograph("coffee.png"), path=[(110, 100), (170, 100)])[
        0
    ]
    box = (200, 200, 800, 800)
    segment = Segment(store, ClassicalSegment())
    results = [segment(store.add_image(image).id, box=box) for image in (left, right, left)]
    assert results[0] == results[2]
    assert results[1].box[0] - results[0].box[0] > 100


def test_score_tells_objects_from_nothing(store):
    """A distinct object scores higher than a patch of the same table, and noise scores lowest."""
    ground = photograph("coffee.png")
    frames, masks = moving(mission_patch(), ground, path=[(140, 100)])
    noise = np.random.default_rng(0).integers(0, 256, (200, 280, 3), np.uint8)
    box = box_px(masks[0])
    engine = ClassicalSegment()
    real = engine.segment(frames[0], box_px=box)[1]
    assert real > 0.3
    assert real > 2 * engine.segment(noise, box_px=box)[1]


def test_frame_of_a_video(store):
    media = store.add_video(clip("carphone_pristine.mp4"))
    segment = Segment(store, ClassicalSegment())
    early = segment(media.id, box=(280, 150, 620, 820), time_s=0.0)
    late = segment(media.id, box=(280, 150, 620, 820), time_s=3.5)
    assert early.mask != late.mask


@pytest.mark.parametrize("size", [(64, 64), (3, 200), (1, 1)], ids=["flat", "strip", "pixel"])
def test_pictures_without_objects(store, size):
    """One colour has no object: the mask has no confidence, or there is none."""
    media = store.add_image(np.full((*size, 3), 77, np.uint8))
    segment = Segment(store, ClassicalSegment())
    assert segment(media.id, point=(1000, 1000)).score < 0.05
    assert segment(media.id, box=(0, 0, 1000, 1000)).score < 0.05


def test_nothing_found(store):
    media = store.add_image(np.full((64, 64, 3), 77, np.uint8))
    with pytest.raises(ToolError, match="found no object"):
        Segment(store, ClassicalSegment())(media.id, box=(100, 100, 130, 130))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({}, "a point or a box"),
        ({"point": (1, 1), "box": (0, 0, 9, 9)}, "a point or a box"),
        ({"box": (0, 0, 0, 9)}, "box: expected"),
        ({"box": (0, 0, 1001, 9)}, "box: expected"),
        ({"point": (-1, 5)}, "point: expected"),
        ({"point": (5, 5), "time_s": 1.0}, "time: expected none"),
    ],
)
def test_bad_calls(store, prompt, message):
    media = store.add_image(photograph("coins.png"))
    with pytest.raises(ToolInputError, match=message):
        Segment(store, ClassicalSegment())(media.id, **prompt)
