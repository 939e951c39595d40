"""The memo: a kept result equals a fresh one bit for bit, for every tool, on real media."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pixelis_fast.policy.embed import VisionEmbedder
from pixelis_fast.policy.limits import PRESET_LIMITS
from pixelis_fast.policy.weights import random_policy
from pixelis_fast.tools_trt.classical.segment import ClassicalSegment
from pixelis_fast.tools_trt.classical.track import ClassicalTrack
from pixelis_fast.tools_trt.memo import Remembered, canonical, recalled
from pixelis_fast.tools_trt.pixels.tiers import TierStore
from pixelis_fast.tools_trt.read_text import ReadText
from pixelis_fast.tools_trt.results import StageMs, ToolError, ToolInputError, ToolResult
from pixelis_fast.tools_trt.store import MediaStore
from pixelis_fast.tools_trt.toolset import Toolset
from tests.media import clip, picture
from tests.scenes import encoded, photograph

COIN = (785, 30, 970, 265)
FACE = (300, 200, 700, 800)
PATIENCE_S = 120


@cache
def opened(memo_bytes):
    return new_tools(memo_bytes)


def new_tools(memo_bytes, embedder=None):
    store = MediaStore()
    return Toolset(
        store,
        segmenter=ClassicalSegment(),
        tracker=ClassicalTrack(),
        read_text=ReadText(store, backend="openvino"),
        embedder=embedder,
        memo_bytes=memo_bytes,
    )


def media(tools):
    store = tools.store
    return {
        "coins": store.add_image(picture("coins.png")).id,
        "page": store.add_image(picture("page.png")).id,
        "phone": store.add_video(clip("carphone_pristine.mp4")).id,
    }


def calls(tools):
    ids = media(tools)
    coins, page, phone = ids["coins"], ids["page"], ids["phone"]
    segmentation = tools.submit("segment", coins, box=COIN).result(PATIENCE_S)
    return {
        "zoom": (("zoom", coins, COIN), {}),
        "zoom on a frame": (("zoom", phone, FACE), {"time_s": 1.0}),
        "segment": (("segment", coins), {"point": (872, 145), "time_s": None}),
        "segment a frame": (("segment", phone), {"box": FACE, "time_s": 2.0}),
        "track": (("track", phone, FACE), {"start_s": 0.0, "end_s": 0.2}),
        "read_text": (("read_text", page, (0, 0, 1000, 300)), {}),
        "localize": (("localize", phone, "motion"), {"box": FACE}),
        "properties": (("properties", coins, segmentation.mask), {}),
    }


@pytest.mark.parametrize(
    "name",
    [
        "zoom",
        "zoom on a frame",
        "segment",
        "segment a frame",
        "track",
        "read_text",
        "localize",
        "properties",
    ],
)
def test_kept_equals_fresh(name):
    kept, fresh = opened(1 << 26), opened(0)
    results = []
    for tools in (kept, kept, fresh, fresh):
        arguments, options = calls(tools)[name]
        ticket = tools.submit(*arguments, **options)
        results.append((ticket.result(PATIENCE_S), ticket.source))
    assert results[1][1] == "memo"
    assert [source for _, source in results[2:]] == ["ran", "ran"]
    for other, _ in results[1:]:
        assert results[0][0] == other
        assert repr(stripped(results[0][0])) == repr(stripped(other))


def stripped(result):
    return replace(result, stage_ms=StageMs())


def test_text_found_by_localize_is_kept_for_read_text():
    tools = opened(1 << 26)
    phone = media(tools)["phone"]
    tools.submit("localize", phone, "text", query="EXIT").result(PATIENCE_S)
    ticket = tools.submit("read_text", phone, None, time_s=0.0)
    assert (ticket.result(PATIENCE_S).lines, ticket.source) == ((), "memo")


def test_localize_looks_again_with_another_tower():
    """The tower is trained between two calls; a result of the old one would be another."""
    policy = random_policy("unit", seed=0)
    tools = new_tools(1 << 26, VisionEmbedder(policy, PRESET_LIMITS["unit"].image))
    frames = [photograph("coffee.png")[:96, :96]] * 2 + [photograph("astronaut.png")[:96, :96]] * 2
    video = tools.store.add_video(encoded(frames)).id

    def look(tools):
        ticket = tools.submit("localize", video, "appearance", box=(0, 0, 500, 500), time_s=0.0)
        return ticket.result(PATIENCE_S), ticket.source

    before, source = look(tools)
    assert (before.engine, source) == ("embedding:cosine", "ran")
    assert look(tools)[1] == "memo"
    with torch.no_grad():
        policy.vision.blocks[0].qkv.weight.mul_(1.5)
    after, source = look(tools)
    fresh = new_tools(0, VisionEmbedder(policy, PRESET_LIMITS["unit"].image))
    fresh.store.add_video(encoded(frames))
    assert source == "ran"
    assert repr(stripped(after)) == repr(stripped(look(fresh)[0]))
    assert look(tools)[1] == "memo"


def test_equal_pixels_share_results_and_crops_keep_their_parent():
    tools = opened(1 << 26)
    coins = media(tools)["coins"]
    twin = tools.store.add_image(tools.store.image(coins)).id
    assert twin != coins
    first = tools.submit("segment", coins, box=(810, 490, 1000, 745)).result(PATIENCE_S)
    ticket = tools.submit("segment", twin, box=(810, 490, 1000, 745))
    assert (ticket.result(PATIENCE_S), ticket.source) == (first, "memo")
    crops = [tools.submit("zoom", i, COIN).result(PATIENCE_S) for i in (coins, twin)]
    assert crops[0].media_id != crops[1].media_id
    assert [crop.original_id for crop in crops] == [coins, twin]


def test_refusals_are_not_kept_and_stay_the_same():
    tools = opened(1 << 26)
    coins, phone = media(tools)["coins"], media(tools)["phone"]
    wrong = [
        ("zoom", coins, (5, 5, 5, 9)),
        ("zoom", "nothing", COIN),
        ("read_text", phone),
        ("track", coins, COIN),
        ("localize", phone, "nothing"),
    ]
    for tool, *arguments in wrong:
        options = {"start_s": 0.0, "end_s": 0.2} if tool == "track" else {}
        said = set()
        for _ in range(2):
            ticket = tools.submit(tool, *arguments, **options)
            said.add(str(ticket.exception(PATIENCE_S)))
            assert isinstance(ticket.exception(), ToolInputError)
            assert ticket.source == "ran"
        assert len(said) == 1


def counted(name="tool"):
    """A remembered tool that counts how often it runs."""
    runs = []

    def tool(media_id, box=None, *, time_s=None, side=4):
        runs.append((media_id, box, time_s, side))
        if box == "broken":
            raise ToolError("no luck")
        return ToolResult(f"run {len(runs)}", None, StageMs(run=5.0))

    memo = TierStore(host_bytes=1 << 20)
    engine = ["engine 1"]
    remembered = Remembered(
        name, tool, memo, subject=lambda media_id, time_s: (media_id, time_s and round(time_s)),
        fingerprint=lambda: engine[0],
    )  # fmt: skip
    return remembered, runs, engine


def test_one_form_for_one_call():
    tool, runs, _ = counted()
    for arguments, options in [
        (("a", [1, 2, 3, 4]), {}),
        (("a",), {"box": (1, 2, 3, 4)}),
        (("a", (1.0, 2, 3, np.int64(4))), {"side": 4}),
        (("a", [1, 2, 3, 4]), {"time_s": None}),
    ]:
        tool(*arguments, **options)
    assert len(runs) == 1
    tool("a", (1, 2, 3, 4), time_s=2.01)
    tool("a", (1, 2, 3, 4), time_s=1.99)
    assert len(runs) == 2, "two times of one frame are one call"
    for other in ({"side": 5}, {"box": (1, 2, 3, 5)}):
        tool("a", **{"box": (1, 2, 3, 4), **other})
    tool("b", (1, 2, 3, 4))
    assert len(runs) == 5


def test_another_engine_is_another_call():
    tool, runs, engine = counted()
    tool("a")
    engine[0] = "engine 2"
    tool("a")
    assert len(runs) == 2


def test_a_kept_result_took_no_time():
    tool, runs, _ = counted()
    assert tool("a").stage_ms == StageMs(run=5.0)
    assert tool("a").stage_ms == StageMs()
    assert recalled(tool("a")) == tool("a")
    assert len(runs) == 1


def test_errors_are_not_kept():
    tool, runs, _ = counted()
    for _ in range(2):
        with pytest.raises(ToolError):
            tool("a", "broken")
    assert len(runs) == 2


NUMBERS = st.integers(-5, 5) | st.floats(allow_nan=False) | st.none() | st.text(max_size=3)
NESTS = st.recursive(NUMBERS, lambda inner: st.lists(inner, max_size=3), max_leaves=6)


@given(one=NESTS, other=NESTS)
def test_canonical_forms_differ_where_values_do(one, other):
    assert (canonical(one) == canonical(other)) == (one == other)
    hash(canonical(one))


@pytest.mark.parametrize("value", [object(), {1, 2}, [np.zeros(2)], math.cos])
def test_what_has_no_form_has_no_key(value):
    with pytest.raises(ToolInputError, match="arguments: expected"):
        canonical(value)
