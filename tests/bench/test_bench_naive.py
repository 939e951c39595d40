"""The baseline's tools do their work on real media: it is slow, not wrong."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage.measure import regionprops

from bench.cases import BIKES, INVOICE
from bench.naive import ForcedTokens, parse
from bench.naive_tools import (
    NaiveTools,
    from_data_url,
    grabcut,
    in_reading_order,
    mask_from_json,
    mask_json,
    measured,
    to_data_url,
)
from bench.naive_video import VideoFile
from bench.outputs import angle_difference, mask_iou
from bench.scenes import scene
from bench.waterfall import STAGES, draw, grouped
from pixelis_fast.kernels.region import region_properties
from pixelis_fast.spans import Spans
from pixelis_fast.types import ToolCall


class FakeReader:
    """Reads the width and height of what it is shown."""

    def readtext(self, image: np.ndarray) -> list:
        height, width = image.shape[:2]
        return [([[0, 0], [9, 0], [9, 9], [0, 9]], f"{width}x{height}", 1.0)]


def tools_on(*names: str) -> NaiveTools:
    tools = NaiveTools(FakeReader(), None)
    tools.open([scene(name) for name in names], use_sam2=False)
    return tools


def test_data_url_keeps_pixels():
    picture = Image.open(io.BytesIO(scene("page").encoded)).convert("RGB")
    assert np.array_equal(np.array(from_data_url(to_data_url(picture))), np.array(picture))


def test_mask_json_keeps_masks():
    mask = scene("invoice").masks["seal"]
    assert np.array_equal(mask_from_json(mask_json(mask)), mask)


def test_grabcut_finds_the_seal():
    picture = np.array(Image.open(io.BytesIO(scene("invoice").encoded)))
    assert mask_iou(grabcut(picture, (547, 390, 755, 589)), scene("invoice").masks["seal"]) > 0.95


def test_reading_order_is_rows_then_columns():
    def box(x, y, text):
        return [[x, y], [x + 40, y], [x + 40, y + 20], [x, y + 20]], text, 0.9

    found = [box(100, 3, "b"), box(0, 40, "c"), box(0, 0, "a"), box(100, 42, "d")]
    assert in_reading_order(found) == "a b c d"


def test_calls_run_with_spans():
    tools, spans = tools_on("bikes"), Spans()
    calls = {call.operation: call for call in BIKES.calls}
    read = ToolCall("read_text", {"media": 0, "box": [120, 330, 700, 720], "time": 2.8})
    found, url = tools.run(read, spans, crop_size=None)
    assert (found.text, url) == ("372x107", None)
    cuts, _ = tools.run(calls["localize"], spans, crop_size=None)
    assert all(start < end for start, end in cuts.spans)
    assert {"tool.read_text.run", "tool.localize.pre"} <= spans.ms.keys()


def test_measures_are_in_thousandths_and_degrees_from_the_x_axis():
    mask = np.zeros((100, 200), np.uint8)
    cv2.ellipse(mask, (100, 50), (60, 10), 30, 0, 360, 1, -1)
    region = regionprops(mask)[0]
    found = measured(region, np.array([1.2, 2.0, 3.0]), mask.shape)
    assert found["area"] == pytest.approx(1000 * mask.mean())
    assert found["center"] == pytest.approx([502.5, 505], abs=3)
    assert found["rgb"] == [1, 2, 3]
    picture = np.zeros((*mask.shape, 3), np.uint8)
    ours = region_properties(mask.astype(bool), picture).orientation_deg
    assert angle_difference(found["angle"], ours) < 1
    left, top, right, bottom = found["box"]
    assert (left, right) == pytest.approx((1005 - right, 1005 - left), abs=3)
    assert mask.any(axis=1).sum() == pytest.approx((bottom - top) / 10)
    assert found["elongation"] == pytest.approx(6, rel=0.1)


def test_zoom_travels_as_png():
    spans = Spans()
    zoom = INVOICE.calls[0]
    found, url = tools_on("invoice").run(zoom, spans, crop_size=(96, 64))
    assert found.size == (96, 64)
    assert from_data_url(url).size == (96, 64)
    assert "transport" in spans.ms


def test_sam2_without_the_package_is_an_error():
    with pytest.raises(ValueError, match="expected the package sam2"):
        NaiveTools(FakeReader(), None).open([scene("coins")], use_sam2=True)


def test_video_frames_are_those_of_their_times():
    with VideoFile(scene("bikes").encoded) as video:
        frames, times_s = video.between(1.0, 1.2, 16)
        again = video.frame(times_s[3])
    assert times_s == pytest.approx([1.0, 1.04, 1.08, 1.12, 1.16, 1.2])
    assert np.array_equal(frames[3], again)


def test_forced_tokens_leave_one_choice():
    import torch

    forced = ForcedTokens([2, 0], "cpu")
    scores = torch.tensor([[0.0, 1.0, 2.0]])
    assert forced(torch.zeros(1, 1), scores).argmax() == 2
    assert forced(torch.zeros(1, 2), scores).argmax() == 0
    assert forced.logprobs[0] == pytest.approx(float(scores.log_softmax(-1)[0, 2]))


def test_parse_reads_a_turn():
    assert parse(INVOICE.turns[0].as_text()) == INVOICE.calls[0]
    assert parse(INVOICE.turns[-1].as_text()) is None


def test_waterfall_groups_add_up(tmp_path):
    groups = grouped({"tool.zoom.pre": 2.0, "tool.zoom.run": 3.0, "odd": 1.0}, 10.0)
    assert groups["tool.zoom"] == 5.0
    assert groups["other"] == 5.0
    assert list(groups) == list(STAGES)
    draw([("case · ours", {"decode": 4.0}, 6.0)], tmp_path / "w.png", title="t")
    assert Image.open(tmp_path / "w.png").width > 100
