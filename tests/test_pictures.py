"""Crops and masks of an observation become pictures with the right pixels."""

import json

import numpy as np
import pytest
from PIL import Image

from pixelis_fast.pictures import paint_mask, save_pictures
from pixelis_fast.tools import ToolBox, ToolConfig, Workspace, open_tools
from pixelis_fast.types import ToolCall
from tests.media import clip, picture


@pytest.fixture(scope="module")
def tools() -> ToolBox:
    return open_tools(ToolConfig(text_backend="ort"))


def observe(tools: ToolBox, workspace: Workspace, name: str, **arguments):
    observation = tools.run(ToolCall(name, arguments), workspace)
    assert observation.error is None, observation.error
    return observation


def test_a_zoom_saves_its_crop(tools, tmp_path):
    workspace = Workspace((tools.add_media(picture("coins.png")),))
    observation = observe(tools, workspace, "zoom", media=0, box=[0, 0, 500, 500])
    [path] = save_pictures(observation, tools.store, folder=tmp_path, name="step-1")
    assert path.name == "step-1-crop-0.png"
    assert np.array_equal(np.asarray(Image.open(path)), tools.image(observation.media[0].id))


def test_a_segment_saves_its_frame_with_the_mask_painted(tools, tmp_path):
    media = tools.add_media(picture("coins.png"))
    observation = observe(tools, Workspace((media,)), "segment", media=0, box=[785, 30, 970, 265])
    [path] = save_pictures(observation, tools.store, folder=tmp_path, name="step-2")
    painted, plain = np.asarray(Image.open(path)).astype(int), tools.image(media.id).astype(int)
    changed = (painted != plain).any(axis=-1).mean() * 1000
    area = parse_area(observation.text)
    assert changed == pytest.approx(area, rel=0.02)


def test_a_track_saves_one_picture_per_frame_it_was_seen_in(tools, tmp_path):
    media = tools.add_media(clip("carphone_pristine.mp4"))
    box = [300, 200, 700, 800]
    observation = observe(tools, Workspace((media,)), "track", media=0, box=box, start=0.0, end=0.3)
    paths = save_pictures(observation, tools.store, folder=tmp_path, name="step-3")
    assert len(paths) == len(observation.masks) > 1
    frame = tools.store.frame(media.id, observation.masks[0].time_s)
    assert paint_mask(frame, observation.masks[0]).shape == frame.shape


def parse_area(text: str) -> float:
    return json.loads(text)["area"]
