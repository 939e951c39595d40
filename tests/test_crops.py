"""Calls on enlarged crops: places go back to the original, whose pixels are cut again."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pixelis_fast.crops import inner_box, inner_point, outer_box, outer_point
from pixelis_fast.head_targets import head_targets
from pixelis_fast.tools import Crop, ToolConfig, Workspace, open_tools
from pixelis_fast.types import (
    Media,
    MediaKind,
    Observation,
    Sample,
    Step,
    TokenRole,
    ToolCall,
    Trajectory,
    VisionSpan,
)
from tests.media import clip, picture

VIEW = (200, 100, 600, 300)


def test_boxes_and_points_go_there_and_back():
    assert outer_box(VIEW, (0, 0, 1000, 1000)) == VIEW
    assert outer_box(VIEW, (250, 500, 500, 1000)) == (300, 200, 400, 300)
    assert inner_box(VIEW, (300, 200, 400, 300)) == (250, 500, 500, 1000)
    assert inner_box((100, 100, 200, 500), (100, 200, 150, 400)) == (0, 250, 500, 750)
    assert outer_point(VIEW, (500, 500)) == (400, 200)
    assert inner_point(VIEW, (400, 200)) == (500, 500)


@pytest.mark.parametrize("view", [(0, 0, 2, 2), (990, 990, 1000, 1000), (0, 0, 1000, 1000)])
def test_the_smallest_box_stays_a_box_inside_the_original(view):
    for box in ((0, 0, 1, 1), (999, 999, 1000, 1000)):
        x0, y0, x1, y1 = outer_box(view, box)
        assert 0 <= x0 < x1 <= 1000
        assert 0 <= y0 < y1 <= 1000


def media(kind=MediaKind.IMAGE, **times):
    return Media("m", kind, 100, 100, **times)


def zoom(index, box=(250, 500, 500, 1000), **more):
    return ToolCall("zoom", {"media": index, "box": list(box), **more})


def test_a_call_on_a_crop_is_one_on_its_original():
    space = Workspace((media(), media()), crops=[Crop(1, VIEW), Crop(0, VIEW, time_s=1.5)])
    assert space.original(zoom(2)) == ToolCall("zoom", {"media": 1, "box": [300, 200, 400, 300]}, 0)
    timed = space.original(zoom(3))
    assert timed.arguments == {"media": 0, "box": [300, 200, 400, 300], "time": 1.5}
    point = space.original(ToolCall("segment", {"media": 2, "point": [500, 500]}))
    assert point.arguments == {"media": 1, "point": [400, 200]}
    whole = space.original(ToolCall("read_text", {"media": 2}))
    assert whole.arguments == {"media": 1, "box": list(VIEW)}
    assert space.original(whole) == whole, "what was told already is left as it is"


@pytest.mark.parametrize(
    "call",
    [
        zoom(0),
        zoom(7),
        zoom(1, time=0.5),
        ToolCall("properties", {"mask": 0}),
        ToolCall("track", {"media": 1, "box": [0, 0, 9, 9], "start": 0.0, "end": 1.0}),
        ToolCall("localize", {"media": 1, "event": "motion"}),
    ],
    ids=["original", "unknown", "time", "mask", "track", "localize"],
)
def test_other_calls_stay_as_they_are(call):
    space = Workspace((media(),), crops=[Crop(0, VIEW)])
    assert space.original(call) is call


@pytest.fixture(scope="module")
def tools():
    return open_tools(ToolConfig(sam2=None))


def test_a_crop_of_a_crop_is_as_sharp_as_the_original(tools):
    space = Workspace((tools.add_media(picture("coins.png")),))
    first = tools.run(zoom(0, VIEW), space)
    assert json.loads(first.text) == {"media": 1, "view": list(VIEW)}
    inside = tools.run(zoom(1), space)
    assert json.loads(inside.text) == {"media": 2, "view": [300, 200, 400, 300]}
    direct = tools.run(zoom(0, (300, 200, 400, 300)), space)
    assert direct.media == inside.media
    assert np.array_equal(tools.image(direct.media[0].id), tools.image(inside.media[0].id))
    third = tools.run(zoom(2, (0, 0, 500, 500)), space)
    assert json.loads(third.text)["view"] == [300, 200, 350, 250]


def test_a_mask_made_on_a_crop_is_of_the_original(tools):
    space = Workspace((tools.add_media(picture("coins.png")),))
    tools.run(zoom(0, VIEW), space)
    on_crop = tools.run(ToolCall("segment", {"media": 1, "point": [500, 500]}), space)
    direct = tools.run(ToolCall("segment", {"media": 0, "point": [400, 200]}), space)
    assert on_crop.masks == direct.masks
    assert space.masks[0].media_id == space.media[0].id


def test_a_video_frames_crop_keeps_its_time(tools):
    space = Workspace((tools.add_media(clip("bikes.mp4")),))
    tools.run(zoom(0, VIEW, time=0.5), space)
    read = tools.run(ToolCall("read_text", {"media": 1}), space)
    assert read.error is None
    assert space.crops == [Crop(0, VIEW, 0.5)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (zoom(2), "media: expected 0..1, got 2"),
        (
            ToolCall("localize", {"media": 1, "event": "motion"}),
            "media: expected zoom or segment or read_text without a time for the crop 1",
        ),
        (
            zoom(1, time=0.5),
            "media: expected zoom or segment or read_text without a time for the crop 1",
        ),
    ],
    ids=["unknown", "no-video", "time"],
)
def test_what_a_crop_is_not_for_is_told(tools, call, message):
    space = Workspace((tools.add_media(picture("coins.png")),))
    tools.run(zoom(0, VIEW), space)
    assert tools.run(call, space).error == message


def test_a_call_on_a_crop_points_at_the_crops_tokens():
    shown = Observation('{"media":1,"view":[200,100,600,300]}', media=(media(),))
    trajectory = Trajectory(Sample("1", (media(),), "?"), policy_version="", seed=0)
    arguments = {"media": 0, "box": [300, 200, 400, 300]}
    trajectory.steps = [
        Step(4, 6, zoom(0, VIEW), shown),
        Step(10, 12, ToolCall("zoom", arguments, crop=0)),
    ]
    trajectory.ids = list(range(12))
    trajectory.roles = [TokenRole.PROMPT] * 12
    for step in trajectory.steps:
        trajectory.roles[step.start : step.end] = [TokenRole.ARGUMENT] * 2
    trajectory.spans = [VisionSpan(0, 4, "m", (1, 4, 4)), VisionSpan(6, 4, "c", (1, 4, 4))]
    targets = head_targets([trajectory], 2, imitated=None)
    assert targets.cells_RC.tolist() == [[0, 1, 2, 3], [6, 7, 8, 9]]
    regions = targets.region_R4.tolist()
    assert regions[0] == pytest.approx([0.4, 0.2, 0.4, 0.2])
    assert regions[1] == pytest.approx([0.375, 0.75, 0.25, 0.5])
    assert targets.cell_R.tolist() == [0, 2]
