"""track: real cut-outs moved along known paths, real clips, and calls that do not fit."""

import numpy as np
import pytest

from pixelis_fast.tools_trt.classical.track import ClassicalTrack
from pixelis_fast.tools_trt.results import ToolInputError
from pixelis_fast.tools_trt.rle import decode_mask
from pixelis_fast.tools_trt.store import MediaStore
from pixelis_fast.tools_trt.track import Track
from tests.media import clip
from tests.scenes import box_px, encoded, iou, line, mission_patch, moving, photograph, units

SIZE = (200, 280)


def follow(frames, masks):
    keys = [str(n) for n in range(len(frames))]
    return list(ClassicalTrack().track(frames, box_px(masks[0]), keys=keys))


@pytest.mark.parametrize("count", [8, 4], ids=["20 px per frame", "47 px per frame"])
def test_moving_object(count):
    path = line((60, 60), (200, 140), count)
    frames, masks = moving(mission_patch(), photograph("coffee.png"), path=path, size=SIZE)
    found = follow(frames, masks)
    overlaps = [iou(mask, truth) for (mask, _), truth in zip(found, masks, strict=True)]
    assert min(overlaps) > 0.9
    for (mask, _), truth in zip(found, masks, strict=True):
        assert np.abs(np.subtract(box_px(mask), box_px(truth))).max() <= 4


def test_lost_and_found():
    path = line((60, 60), (180, 140), 9)
    frames, masks = moving(
        mission_patch(),
        photograph("chelsea.png"),
        path=path,
        size=SIZE,
        visible=lambda n: not 3 <= n <= 5,
    )
    found = follow(frames, masks)
    assert [mask is None for mask, _ in found] == [3 <= n <= 5 for n in range(9)]
    assert max(score for _, score in found[3:6]) < min(score for _, score in found[6:])
    assert min(iou(found[n][0], masks[n]) for n in (0, 1, 2, 6, 7, 8)) > 0.85


def test_leaving_the_frame():
    path = line((140, 100), (420, 100), 6)
    frames, masks = moving(mission_patch(), photograph("coffee.png"), path=path, size=SIZE)
    found = follow(frames, masks)
    assert found[-1][0] is None
    assert found[1][0] is not None


def test_result_of_an_encoded_clip():
    path = line((60, 60), (200, 140), 13)
    frames, masks = moving(mission_patch(), photograph("coffee.png"), path=path, size=SIZE)
    store = MediaStore()
    media = store.add_video(encoded(frames))
    box = units(box_px(masks[0]), SIZE)
    result = Track(store, ClassicalTrack())(media.id, box, start_s=0.0, end_s=1.2, max_frames=5)
    assert result.times_s == pytest.approx((0.0, 0.3, 0.6, 0.9, 1.2))
    for n, mask in zip((0, 3, 6, 9, 12), result.masks, strict=True):
        assert iou(decode_mask(mask), masks[n]) > 0.9
    for n, found in zip((0, 3, 6, 9, 12), result.boxes, strict=True):
        assert np.abs(np.subtract(found, units(box_px(masks[n]), SIZE))).max() <= 25
    assert result.engine.startswith("classical:")
    assert "no SAM 2 weights" in result.degraded
    assert min(result.stage_ms.pre, result.stage_ms.run, result.stage_ms.post) > 0
    again = Track(store, ClassicalTrack())(media.id, box, start_s=0.0, end_s=1.2, max_frames=5)
    assert again == result


def test_real_face():
    """The man in the car keeps his face in view; its box stays near where it was."""
    store = MediaStore()
    media = store.add_video(clip("carphone_pristine.mp4"))
    box = (280, 150, 620, 820)
    result = Track(store, ClassicalTrack())(media.id, box, start_s=0.0, end_s=2.0, max_frames=5)
    assert all(found is not None for found in result.boxes)
    centres = [((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in result.boxes]
    assert np.ptp([x for x, _ in centres]) < 80
    assert np.ptp([y for _, y in centres]) < 120


def test_real_cut_loses_the_object():
    """The clip cuts from the taxi's sign to another scene at 3.04 s."""
    store = MediaStore()
    media = store.add_video(clip("bikes.mp4"))
    box = (250, 440, 820, 740)
    result = Track(store, ClassicalTrack())(media.id, box, start_s=2.92, end_s=3.16, max_frames=5)
    assert result.boxes[1] is not None
    assert result.boxes[-1] is None


@pytest.fixture(scope="module")
def store_and_clip():
    store = MediaStore()
    return store, store.add_video(clip("carphone_pristine.mp4"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start_s": 1.0, "end_s": 1.0}, "span: expected"),
        ({"start_s": 2.0, "end_s": 1.0}, "span: expected"),
        ({"start_s": -1.0, "end_s": 1.0}, "span: expected"),
        ({"start_s": 0.0, "end_s": 99.0}, "span: expected"),
        ({"start_s": float("nan"), "end_s": 1.0}, "span: expected"),
        ({"start_s": 0.0, "end_s": 0.001}, "at least two frames"),
        ({"start_s": 0.0, "end_s": 1.0, "max_frames": 1}, "max_frames: expected"),
        ({"start_s": 0.0, "end_s": 1.0, "box": (5, 5, 5, 9)}, "box: expected"),
    ],
)
def test_bad_calls(store_and_clip, arguments, message):
    store, media = store_and_clip
    call = {"box": (100, 100, 300, 300)} | arguments
    with pytest.raises(ToolInputError, match=message):
        Track(store, ClassicalTrack())(media.id, **call)


def test_still_picture():
    store = MediaStore()
    media = store.add_image(photograph("coins.png"))
    with pytest.raises(ToolInputError, match="expected a video, got an image"):
        Track(store, ClassicalTrack())(media.id, (0, 0, 9, 9), start_s=0.0, end_s=1.0)
