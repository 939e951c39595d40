"""The six tools together: batches of real calls, priorities, health, and the policy's side."""

import json
import threading
from concurrent.futures import CancelledError

import numpy as np
import pytest

from pixelis_fast.tools import ToolBox, Workspace
from pixelis_fast.tools_trt.classical.segment import ClassicalSegment
from pixelis_fast.tools_trt.classical.track import ClassicalTrack
from pixelis_fast.tools_trt.read_text import ReadText
from pixelis_fast.tools_trt.results import ToolInputError
from pixelis_fast.tools_trt.rle import decode_mask
from pixelis_fast.tools_trt.sam2.network import Sam2
from pixelis_fast.tools_trt.sam2.segment import Sam2Segment
from pixelis_fast.tools_trt.sam2.track import Sam2Track
from pixelis_fast.tools_trt.scheduler import DeadlineError, Priority, Work
from pixelis_fast.tools_trt.store import MediaStore
from pixelis_fast.tools_trt.toolset import Toolset
from pixelis_fast.types import ToolCall
from tests.media import clip, picture

PATIENCE_S = 120
COIN, OTHER_COIN = [785, 30, 970, 265], [810, 490, 1000, 745]


@pytest.fixture(scope="module")
def store():
    return MediaStore()


@pytest.fixture(scope="module")
def read_text(store):
    return ReadText(store, backend="openvino")


@pytest.fixture
def tools(store, read_text):
    tools = Toolset(
        store, segmenter=ClassicalSegment(), tracker=ClassicalTrack(), read_text=read_text
    )
    yield tools
    tools.close()


class Held:
    """The compute thread busy until the block ends."""

    def __init__(self, tools):
        self._release, self._tools = threading.Event(), tools

    def __enter__(self):
        started = threading.Event()

        def hold():
            started.set()
            assert self._release.wait(PATIENCE_S)

        self._tools._scheduler.submit(Work("hold", hold))
        assert started.wait(PATIENCE_S)

    def __exit__(self, *error):
        self._release.set()


def test_calls_on_frames_of_one_video_run_in_the_order_of_its_frames(tools):
    store = MediaStore(byte_budget=1 << 19)
    video = store.add_video(clip("bikes.mp4"))
    cursor = store._videos.cursor(video.id, store.encoded(video.id), store.index(video.id))
    small = Toolset(
        store,
        segmenter=ClassicalSegment(),
        tracker=ClassicalTrack(),
        read_text=tools._read_text,
        memo_bytes=0,
    )
    times_s = [5.0, 1.0, 4.0, 2.0, 3.0]
    with Held(small):
        box = (100, 100, 500, 500)
        tickets = [small.submit("zoom", video.id, box, time_s=time_s) for time_s in times_s]
    crops = [ticket.result(PATIENCE_S) for ticket in tickets]
    assert small.stats().calls.batched == 5
    # One way through the frames, where answering in turn would have begun anew three times.
    assert cursor.num_entries == len({store.index(video.id).group_of(n).start for n in (25, 125)})
    other = MediaStore()
    other.add_video(clip("bikes.mp4"))
    for crop, time_s in zip(crops, times_s, strict=True):
        alone = other.add_crop(video.id, crop.box, time_s, crop.width, crop.height)
        np.testing.assert_array_equal(store.image(crop.media_id), other.image(alone.id))
    small.close()


def test_prompts_on_one_picture_are_decoded_together(store, read_text):
    engine = Sam2Segment(Sam2.random("micro", side=256))
    photo = store.add_image(picture("astronaut.png"))
    boxes = [(50 * n, 100, 300 + 100 * n, 800) for n in range(4)]
    options = {"segmenter": engine, "tracker": ClassicalTrack(), "read_text": read_text}
    together = Toolset(store, **options, batch_prompts=True, memo_bytes=0)
    with Held(together):
        tickets = [together.submit("segment", photo.id, box=box) for box in boxes]
        wrong = together.submit("segment", photo.id, box=(5, 5, 5, 9))
    results = [ticket.result(PATIENCE_S) for ticket in tickets]
    assert together.stats().calls.batched == 4
    assert isinstance(wrong.exception(PATIENCE_S), ToolInputError)
    alone = Toolset(store, **options, memo_bytes=0)
    for box, result in zip(boxes, results, strict=True):
        expected = alone.submit("segment", photo.id, box=box).result(PATIENCE_S)
        assert result.score == pytest.approx(expected.score, abs=1e-5)
        assert (decode_mask(result.mask) != decode_mask(expected.mask)).mean() < 1e-3
    assert alone.stats().calls.batches == 0
    together.close()
    alone.close()


def test_an_engine_that_takes_one_prompt_is_not_asked_for_more(store, read_text):
    with pytest.raises(ValueError, match="batch_prompts: expected"):
        Toolset(
            store,
            segmenter=ClassicalSegment(),
            tracker=ClassicalTrack(),
            read_text=read_text,
            batch_prompts=True,
        )


def test_quick_tools_overtake_slow_ones(tools, store):
    phone = store.add_video(clip("carphone_pristine.mp4"))
    done = []
    with Held(tools):
        calls = {
            "localize": tools.submit("localize", phone.id, "change"),
            "segment": tools.submit("segment", phone.id, box=(300, 200, 700, 800), time_s=1.0),
            "guess": tools.submit("zoom", phone.id, (1, 0, 500, 500), time_s=1.0, speculative=True),
            "zoom": tools.submit("zoom", phone.id, (0, 0, 500, 500), time_s=1.0),
        }
        for name, ticket in calls.items():
            ticket.add_done_callback(lambda _, n=name: done.append(n))
    calls["guess"].result(PATIENCE_S)
    assert done == ["zoom", "segment", "localize", "guess"]


def test_health_and_counters(tools, store):
    coins = store.add_image(picture("coins.png"))
    for _ in range(2):
        tools.submit("zoom", coins.id, COIN).result(PATIENCE_S)
    health = tools.health()
    assert health.is_serving
    assert health.engines["segment"] == "classical:grabcut"
    assert health.engines["read_text"].startswith("openvino")
    assert set(health.degraded) == {"segment", "track"}
    zoom = tools.stats().calls.tools["zoom"]
    assert (zoom.calls, zoom.memo_hits, zoom.ran) == (2, 1, 1)
    assert 0 <= zoom.p50_ms <= zoom.p95_ms <= zoom.p99_ms
    json.dumps(tools.stats().to_json())
    tools.close()
    assert not tools.health().is_serving


def call(operation, **arguments):
    return ToolCall(operation, arguments)


@pytest.fixture
def box_of_tools(tools):
    return ToolBox(tools)


@pytest.fixture
def workspace(box_of_tools):
    coins = box_of_tools.add_media(picture("coins.png"))
    return Workspace((coins,))


def test_masks_are_named_when_they_are_asked_for(box_of_tools, workspace):
    first = box_of_tools.submit(call("segment", media=0, box=COIN), workspace)
    second = box_of_tools.submit(call("segment", media=0, box=OTHER_COIN), workspace)
    assert json.loads(second.result().text)["mask"] == 0
    assert json.loads(first.result().text)["mask"] == 1
    assert second.result() is second.result()
    assert len(workspace.masks) == 2


def test_submitting_answers_what_running_answers(box_of_tools, workspace):
    calls = [
        call("zoom", media=0, box=COIN),
        call("segment", media=0, box=COIN),
        call("properties", mask=0),
        call("read_text", media=0),
        call("zoom", media=3, box=COIN),
        call("properties", mask=9),
    ]
    ran = [box_of_tools.run(each, workspace) for each in calls]
    again = Workspace(workspace.media)
    for each, expected in zip(calls, ran, strict=True):
        found = box_of_tools.submit(each, again).result()
        assert (found.text, found.masks, found.media) == (
            expected.text,
            expected.masks,
            expected.media,
        )
    assert ran[1].stage_ms["run"] > 0
    assert [observation.error is None for observation in ran] == [True] * 4 + [False] * 2


def test_a_late_call_reads_as_a_refusal(box_of_tools, workspace):
    with Held(box_of_tools.toolset):
        pending = box_of_tools.submit(call("zoom", media=0, box=COIN), workspace, deadline_s=0.0)
        cancelled = box_of_tools.submit(call("read_text", media=0), workspace)
        assert cancelled.cancel()
    assert "expected to start before its deadline" in pending.result().error
    assert DeadlineError.__name__ not in pending.result().text
    with pytest.raises(CancelledError):
        cancelled.result()


def test_a_guess_serves_the_call_that_follows(box_of_tools, workspace):
    asked = call("segment", media=0, box=[60, 80, 180, 260])
    box_of_tools.submit(asked, workspace, speculative=True)
    box_of_tools.toolset._scheduler.submit(Work("wait", lambda: None)).result(PATIENCE_S)
    observation = box_of_tools.submit(asked, workspace).result()
    assert observation.error is None or "found no object" in observation.error
    assert box_of_tools.toolset.stats().calls.tools["segment"].calls == 2


class Asked:
    """An engine's graphs, counted."""

    def __init__(self, sam2):
        self.calls, self._run = [], sam2.run
        sam2.run = self

    def __call__(self, graph, **inputs):
        self.calls.append(graph)
        return self._run(graph, **inputs)


def test_a_prepared_picture_is_not_encoded_again(store, read_text):
    sam2 = Sam2.random("micro", side=256)
    asked = Asked(sam2)
    options = {"segmenter": Sam2Segment(sam2), "tracker": Sam2Track(sam2), "read_text": read_text}
    tools = Toolset(store, **options)
    photo, video = store.add_image(picture("coins.png")), store.add_video(clip("bikes.mp4"))
    assert (
        tools._priority("segment", tools._tools["segment"].key(photo.id, box=COIN))
        == Priority.ENCODE
    )
    tools.prepare("segment", photo.id).result(PATIENCE_S)
    assert asked.calls == ["encoder"]
    key = tools._tools["segment"].key(photo.id, box=COIN)
    assert tools._priority("segment", key) == Priority.DECODE
    tools.submit("segment", photo.id, box=COIN).result(PATIENCE_S)
    assert asked.calls == ["encoder", "decoder"]
    tools.prepare("track", video.id, time_s=0.5).result(PATIENCE_S)
    tools.submit("track", video.id, COIN, start_s=0.5, end_s=0.6).result(PATIENCE_S)
    # The first of the track's frames was there.
    num_frames = asked.calls.count("memory_encoder")
    assert asked.calls.count("encoder") - 1 == num_frames >= 2
    assert tools.stats().calls.speculated == 2
    tools.close()


def test_prepared_text_is_found_once_and_reads_the_same(store):
    reader = ReadText(store, backend="openvino")
    detected = []
    detect = reader._engine.detect
    reader._engine.detect = lambda *arguments: detected.append(1) or detect(*arguments)
    page = store.add_image(picture("page.png"))
    reader.prepare(page.id)
    ahead = reader(page.id)
    assert len(detected) == 1
    fresh = ReadText(store, backend="openvino", detection_bytes=0)(page.id)
    assert ahead.lines == fresh.lines
    assert ahead.lines
    part = reader(page.id, (0, 0, 1000, 500))
    assert len(detected) == 2
    assert part.lines


def test_what_has_no_beginning_is_not_prepared(tools, store):
    photo = store.add_image(picture("coins.png"))
    for tool in ("zoom", "segment", "track", "properties", "localize"):
        assert tools.prepare(tool, photo.id) is None
    with pytest.raises(ToolInputError, match="media"):
        tools.prepare("read_text", "no-such-id")


def test_a_waiting_preparation_can_be_cancelled(store, read_text):
    sam2 = Sam2.random("micro", side=256)
    asked = Asked(sam2)
    tools = Toolset(
        store, segmenter=Sam2Segment(sam2), tracker=Sam2Track(sam2), read_text=read_text
    )
    photo = store.add_image(picture("coins.png"))
    with Held(tools):
        ticket = tools.prepare("segment", photo.id)
        assert ticket.cancel()
    assert tools.submit("zoom", photo.id, (0, 0, 500, 500)).result(PATIENCE_S)
    assert asked.calls == []
    tools.close()


def test_a_crop_of_media_that_came_again_is_there(tools, store):
    encoded = picture("chelsea.png")
    box = (100, 100, 500, 500)
    first = store.add_image(encoded)
    crop = tools.submit("zoom", first.id, box).result(PATIENCE_S)
    again = tools.submit("zoom", first.id, box)
    assert again.result(PATIENCE_S).media_id == crop.media_id
    assert again.source == "memo"
    store.forget(first.id)
    assert crop.media_id not in store
    assert store.add_image(encoded).id == first.id
    anew = tools.submit("zoom", first.id, box).result(PATIENCE_S)
    assert store.image(anew.media_id).shape == (anew.height, anew.width, 3)
