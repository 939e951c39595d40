"""localize: known cuts, motion, looks and texts; a real clip's cuts; calls that do not fit."""

import cv2
import numpy as np
import pytest

from pixelis_fast.tools_trt.localize import Localize
from pixelis_fast.tools_trt.localize_scores import contains
from pixelis_fast.tools_trt.results import (
    ReadTextResult,
    StageMs,
    TextLine,
    ToolError,
    ToolInputError,
)
from pixelis_fast.tools_trt.store import MediaStore
from tests.media import clip
from tests.scenes import (
    box_px,
    encoded,
    line,
    mission_patch,
    moving,
    photograph,
    span_iou,
    units,
)
from tests.tools.rendered import document

FACE = (300, 150, 620, 700)


@pytest.fixture(scope="module")
def store():
    return MediaStore()


@pytest.fixture(scope="module")
def takes(store):
    """40 frames of a man in a car and 40 of an animal in a meadow, 176 x 144."""
    man = store.add_video(clip("carphone_pristine.mp4"))
    meadow = store.add_video(clip("bigbuckbunny.mp4"))
    return tuple(
        [cv2.resize(frame, (176, 144)) for frame in store.frames(media.id, np.arange(40) / rate)]
        for media, rate in ((man, 30), (meadow, 25))
    )


@pytest.fixture(scope="module")
def concatenated(store, takes):
    """Man until 4 s, meadow until 8 s, man until 10 s."""
    man, meadow = takes
    return store.add_video(encoded([*man, *meadow, *man[:20]]))


@pytest.fixture(scope="module")
def moved(store):
    """The patch rests until 1.2 s, moves until 2.7 s and rests again until 4.2 s."""
    path = [(60, 60)] * 12 + line((60, 60), (200, 140), 16) + [(200, 140)] * 14
    return store.add_video(encoded(moving(mission_patch(), photograph("coffee.png"), path=path)[0]))


def test_change_cuts(store, concatenated):
    result = Localize(store)(concatenated.id, "change")
    cuts = sorted((span.start_s, span.end_s) for span in result.spans)
    assert cuts == [pytest.approx((3.9, 4.0)), pytest.approx((7.9, 8.0))]
    assert result.keyframe_s in (pytest.approx(4.0), pytest.approx(8.0))
    assert result.spans[0].score >= result.spans[1].score
    assert result.degraded is None
    assert result.stage_ms.pre > 0
    assert result.stage_ms.run > 0
    assert Localize(store)(concatenated.id, "change") == result


def test_change_real_cuts(store):
    """The five cuts of the street clip, seen by eye."""
    result = Localize(store)(store.add_video(clip("bikes.mp4")).id, "change")
    found = sorted(span.end_s for span in result.spans)
    assert found == pytest.approx([1.20, 3.04, 5.48, 7.48, 9.68], abs=0.021)


def test_change_none_in_one_take(store):
    assert Localize(store)(store.add_video(clip("carphone_pristine.mp4")).id, "change").spans == ()


def test_change_fade(store, takes):
    man, meadow = takes
    shares = np.clip((np.arange(40) - 15) / 10, 0, 1)
    mixed = zip(man, meadow, shares, strict=True)
    frames = [(one * (1 - k) + other * k).astype(np.uint8) for one, other, k in mixed]
    spans = Localize(store)(store.add_video(encoded(frames)).id, "change").spans
    assert len(spans) == 1
    assert span_iou((spans[0].start_s, spans[0].end_s), (1.5, 2.5)) > 0.7


def test_motion(store, moved):
    result = Localize(store)(moved.id, "motion")
    assert len(result.spans) == 1
    assert span_iou((result.spans[0].start_s, result.spans[0].end_s), (1.1, 2.7)) > 0.85
    assert 1.1 <= result.keyframe_s <= 2.7


def test_motion_in_a_box(store, moved):
    """Only the start of the path lies in the box, and nothing moves in the far corner."""
    spans = Localize(store)(moved.id, "motion", box=(0, 0, 300, 300)).spans
    assert len(spans) == 1
    assert spans[0].end_s < 2.0
    assert Localize(store)(moved.id, "motion", box=(0, 750, 150, 1000)).spans == ()


@pytest.mark.parametrize(
    ("time_s", "truth"),
    [(1.0, [(0.0, 4.0), (8.0, 10.0)]), (6.0, [(4.0, 8.0)])],
    ids=["man", "meadow"],
)
def test_appearance(store, concatenated, time_s, truth):
    result = Localize(store)(concatenated.id, "appearance", box=FACE, time_s=time_s)
    found = sorted((span.start_s, span.end_s) for span in result.spans)
    assert len(found) == len(truth)
    for one, other in zip(found, truth, strict=True):
        assert span_iou(one, other) > 0.9
    # The man's second take repeats his first: its frame at 9 s is the one pointed at, too.
    assert result.keyframe_s in (pytest.approx(time_s), pytest.approx(9.0))
    assert "no embedder" in result.degraded


def test_appearance_of_a_moving_object(store):
    path = line((50, 60), (230, 140), 40)
    frames, masks = moving(
        mission_patch(), photograph("coffee.png"), path=path, visible=lambda n: 12 <= n < 31
    )
    media = store.add_video(encoded(frames))
    box = units(box_px(masks[20]), (200, 280))
    spans = Localize(store)(media.id, "appearance", box=box, time_s=2.0).spans
    assert [(span.start_s, span.end_s) for span in spans] == [pytest.approx((1.2, 3.1))]


class MeanColours:
    """A true small embedder: the mean colour of each quarter, centred."""

    version = "1"

    def __call__(self, frames_THWC):
        small = [cv2.resize(frame, (4, 4), interpolation=cv2.INTER_AREA) for frame in frames_THWC]
        return np.stack(small).reshape(len(small), -1).astype(np.float32) - 128


def test_appearance_by_embedder(store, concatenated):
    localize = Localize(store, embedder=MeanColours())
    result = localize(concatenated.id, "appearance", box=FACE, time_s=6.0)
    assert result.engine == "embedding:cosine"
    assert result.degraded is None
    best = max(span_iou((span.start_s, span.end_s), (4.0, 8.0)) for span in result.spans)
    assert best > 0.9


def test_text(store):
    """A page is shown from 1.0 to 2.0 s; the reader here is the real one."""
    from pixelis_fast.tools_trt.read_text import ReadText

    page = document(20, lines=("Departure 14:35", "Gate B7 closes soon"), width=300)
    height, width = (side // 2 * 2 for side in page.shape[:2])
    blank = cv2.resize(photograph("coffee.png"), (width, height))
    frames = [blank] * 10 + [page[:height, :width]] * 10 + [blank] * 10
    media = store.add_video(encoded(frames))
    localize = Localize(store, read_text=ReadText(store, backend="openvino"))
    spans = localize(media.id, "text", query="gate  b7").spans
    assert [(span.start_s, span.end_s) for span in spans] == [pytest.approx((1.0, 2.0))]
    assert localize(media.id, "text", query="platform nine").spans == ()


def test_text_reads_equal_frames_once(store, takes):
    """A reader that is told what to see; a still clip costs one reading."""
    times_s = []

    def read(media_id, box=None, *, time_s=None):
        times_s.append(time_s)
        text = TextLine("ABC", (0, 0, 9, 9), 1.0, ((0, 0), (9, 0), (9, 9), (0, 9)))
        return ReadTextResult("told", None, StageMs(), lines=(text,))

    media = store.add_video(encoded([takes[0][0]] * 30))
    result = Localize(store, read_text=read)(media.id, "text", query="abc")
    assert [(span.start_s, span.end_s) for span in result.spans] == [pytest.approx((0.0, 3.0))]
    assert len(times_s) == 1
    assert result.engine == "told"


@pytest.mark.parametrize(
    ("text", "query", "likeness"),
    [
        ("Platform 9 to Leeds", "platform 9", 1.0),
        ("Plattorm 9", "platform 9", 0.9),
        ("EXIT", "entrance", 0.125),
        ("", "abc", 0.0),
        ("a b\n c", "A  B C", 1.0),
    ],
)
def test_contains(text, query, likeness):
    assert contains(text, query) == pytest.approx(likeness)


@pytest.mark.parametrize(
    ("event", "arguments", "message"),
    [
        ("explosion", {}, "event: expected"),
        ("change", {"query": "x"}, "query: expected none"),
        ("change", {"time_s": 1.0}, "time: expected none"),
        ("motion", {"box": (9, 9, 9, 9)}, "box: expected"),
        ("appearance", {"box": FACE}, "a box and a time"),
        ("appearance", {"box": FACE, "time_s": 99.0}, "time: expected"),
        ("text", {}, "query: expected"),
        ("text", {"query": "  "}, "query: expected"),
    ],
)
def test_bad_calls(store, concatenated, event, arguments, message):
    with pytest.raises(ToolInputError, match=message):
        Localize(store)(concatenated.id, event, **arguments)


def test_still_picture(store):
    media = store.add_image(photograph("coins.png"))
    with pytest.raises(ToolInputError, match="expected a video, got an image"):
        Localize(store)(media.id, "change")


def test_text_without_a_reader(store, concatenated):
    with pytest.raises(ToolError, match="needs a read_text tool"):
        Localize(store)(concatenated.id, "text", query="exit")
