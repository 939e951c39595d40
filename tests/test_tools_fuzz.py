"""A quick share of `bench/fuzz.py`, and that it would notice what it looks for."""

import math
import random

import pytest

from bench.fuzz import ARMS, Fuzzer, described
from bench.fuzz_calls import CallMaker, fault_of
from bench.fuzz_media import ODD_BYTES, WHOLE_PICTURES, WHOLE_VIDEOS, draw_media
from bench.process import open_files
from pixelis_fast.tools_trt.pixels.media import MediaInfo
from pixelis_fast.tools_trt.results import StageMs, ToolError, ToolInputError, ZoomResult
from pixelis_fast.tools_trt.store import MediaStore

PHOTO = MediaInfo("a", "image", 100, 80)


@pytest.fixture(scope="module")
def fuzzer():
    fuzzer = Fuzzer(seed=7)
    yield fuzzer
    fuzzer.tools.close()


@pytest.mark.filterwarnings("ignore")
def test_broken_input_gets_a_typed_answer(fuzzer):
    fuzzer.run_one(0)
    files = open_files()
    for number in range(1, 80):
        fuzzer.run_one(number)
    assert fuzzer.findings.faults == []
    outcomes = fuzzer.findings.outcomes
    assert min(outcomes["answered"], outcomes["refused"], outcomes["media added"]) > 12
    assert open_files() <= files + 2
    assert fuzzer.store.pixel_bytes <= 16 << 20


@pytest.mark.parametrize("name", sorted(WHOLE_PICTURES))
def test_whole_pictures_are_taken(name):
    store = MediaStore()
    if name == "float tiff":
        with pytest.raises(ToolInputError, match="expected 8 or 16 bits"):
            store.add_image(WHOLE_PICTURES[name]())
        return
    info = store.add_image(WHOLE_PICTURES[name]())
    assert store.image(info.id).shape == (info.height, info.width, 3)


@pytest.mark.parametrize("name", sorted(WHOLE_VIDEOS))
def test_whole_videos_are_taken(name):
    store = MediaStore()
    info = store.add_video(WHOLE_VIDEOS[name]())
    assert info.num_frames == 12
    assert store.frame(info.id, 0.5).shape == (info.height, info.width, 3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(ODD_BYTES))
def test_odd_bytes_are_refused(name):
    for add in (MediaStore().add_image, MediaStore().add_video):
        with pytest.raises(ToolInputError, match=r"expected .* got"):
            add(ODD_BYTES[name]())


def test_inputs_come_from_the_seed():
    drawn = [[draw_media(random.Random(f"{seed}/{n}")) for n in range(12)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    makers = [CallMaker(random.Random(3), PHOTO, oddness=0.0) for _ in range(2)]
    assert [makers[0].draw() for _ in range(20)] == [makers[1].draw() for _ in range(20)]


ROWS = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
SOUND = ZoomResult("cpu", None, StageMs(), "b", (0, 0, 500, 500), 50, 40, "a", ROWS)


@pytest.mark.parametrize(
    "outcome",
    [
        TypeError("x"),
        ToolInputError("no"),
        ZoomResult("cpu", None, StageMs(), "b", (0, 0, 0, 500), 50, 40, "a", ROWS),
        ZoomResult("cpu", None, StageMs(), "b", (0, 0, 500, 500), 500, 40, "a", ROWS),
        ZoomResult("cpu", None, StageMs(), "b", (0, 0, 500, math.nan), 50, 40, "a", ROWS),
    ],
    ids=["other error", "no reason", "empty box", "affine outside", "nan"],
)
def test_unsound_answers_are_faults(outcome):
    assert fault_of(outcome, PHOTO) is not None
    for sound in (SOUND, ToolError("no luck"), ToolInputError("box: expected 1, got 2")):
        assert fault_of(sound, PHOTO) is None


def test_arms_that_differ_are_told_apart():
    assert len(ARMS) == 2
    assert described(ToolError("a")) == described(ToolError("a"))
    assert described(ToolError("a")) != described(ToolInputError("a"))
    assert described(SOUND) != described(ToolError("a"))
