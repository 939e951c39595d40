"""Behaviour: footprints by hand, chains aligned in order, symmetric and one with itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.memory_experiences import MEDIA
from pixelis_fast.types import Media, MediaKind, Observation, ToolCall
from pixelis_fast.voting_behaviour import (
    behaviour_of,
    chain_similarity,
    embedding_similarity,
    similarity,
)
from pixelis_fast.voting_footprint import box_overlap, footprint, mask_box, overlap
from tests.voting_fixtures import acted, box_mask, call, zoom

BOX = [0, 0, 400, 400]


def alike(one: ToolCall, other: ToolCall) -> float:
    return overlap(footprint(one, (MEDIA,), ()), footprint(other, (MEDIA,), ()))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (zoom(*BOX), zoom(*BOX), 1.0),
        (zoom(*BOX), zoom(200, 0, 600, 400), 1 / 3),
        (zoom(*BOX), zoom(400, 0, 800, 400), 0.0),
        (zoom(*BOX), call("zoom", media=1, box=BOX), 0.0),
        (call("read_text"), call("read_text", box=[0, 0, 500, 1000]), 0.5),
        (call("segment", point=[100, 100]), call("segment", point=[100, 200]), 0.5),
        (call("segment", point=[100, 100]), call("segment", point=[900, 900]), 0.0),
        (call("segment", point=[200, 200]), call("segment", box=BOX), 1.0),
        (call("segment", point=[200, 300]), call("segment", box=BOX), 0.5),
        (call("zoom", box=BOX, time=1.0), call("zoom", box=BOX, time=1.25), 0.75),
        (call("zoom", box=BOX, time=1.0), call("zoom", box=BOX), 0.0),
        (call("track", box=BOX, start=0, end=2), call("track", box=BOX, start=1, end=3), 1 / 3),
        (call("track", box=BOX, start=0, end=2), call("track", box=BOX, start=0, end=2), 1.0),
        (call("localize", event="change"), call("localize", event="motion"), 0.0),
        (
            call("localize", event="text", query="Exit!"),
            call("localize", event="text", query="exit"),
            1.0,
        ),
    ],
)
def test_footprints(one, other, expected):
    assert alike(one, other) == pytest.approx(expected)
    assert alike(one, other) == alike(other, one)


def test_a_mask_stands_for_its_box():
    assert mask_box(box_mask(20, 10, 60, 50)) == (100, 100, 300, 500)
    measured = acted("1", call("segment", point=[1, 1]), ToolCall("properties", {"mask": 0}))
    measured.steps[0].observation = Observation("{}", masks=(box_mask(20, 10, 60, 50),))
    place = behaviour_of(measured).chain[1]
    assert (place.operation, place.media, place.box) == ("properties", 0, (100, 100, 300, 500))


def test_of_a_tracks_masks_the_last_is_named():
    tracked = acted(
        "1", call("track", box=BOX, start=0, end=1), ToolCall("properties", {"mask": 0})
    )
    masks = (box_mask(0, 0, 10, 10), box_mask(20, 10, 60, 50))
    tracked.steps[0].observation = Observation("{}", masks=masks)
    assert behaviour_of(tracked).chain[1].box == (100, 100, 300, 500)


def test_masks_of_two_pictures_compare_by_their_place_among_the_media():
    other = Media("ef" * 32, MediaKind.IMAGE, 200, 100)
    found = []
    for media in (MEDIA, other):
        one = acted(
            "1", call("segment", box=BOX), ToolCall("properties", {"mask": 0}), media=(media,)
        )
        mask = box_mask(20, 10, 60, 50, media_id=media.id)
        one.steps[0].observation = Observation("{}", masks=(mask,))
        found.append(behaviour_of(one))
    assert similarity(*found, operation_share=0.5) == 1.0


def chain(*calls):
    return behaviour_of(acted("1", *calls)).chain


LEFT, RIGHT, READ = zoom(*BOX), zoom(600, 600, 1000, 1000), call("read_text")


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((), (), 1.0),
        ((), (LEFT,), 0.0),
        ((LEFT, READ), (LEFT, READ), 1.0),
        ((LEFT, READ), (READ, LEFT), 0.5),
        ((LEFT, READ), (LEFT,), 2 / 3),
        ((LEFT,), (RIGHT,), 0.25),
        ((LEFT,), (READ,), 0.0),
        ((LEFT, RIGHT), (RIGHT, LEFT), 0.5),
        ((LEFT, READ, RIGHT), (LEFT, RIGHT), 0.8),
        ((None,), (None,), 0.0),
        ((LEFT, None), (LEFT,), 2 / 3),
    ],
)
def test_chains_are_aligned_in_order(one, other, expected):
    found = chain_similarity(chain(*one), chain(*other), operation_share=0.25)
    assert found == pytest.approx(expected)


def test_a_call_that_failed_is_like_no_other():
    worked, failed = (
        acted("1", LEFT, observed=observed)
        for observed in (Observation("{}"), Observation("{}", error="no such box"))
    )
    assert similarity(behaviour_of(worked), behaviour_of(failed), operation_share=0.5) == 0.0


def test_embeddings_turn_the_similarity():
    one, same, across, against = (
        behaviour_of(acted("1", LEFT, z=z)) for z in ((2, 0), (1, 0), (0, 3), (-1, 0))
    )
    found = [similarity(one, other, operation_share=0.5) for other in (same, across, against)]
    assert found == pytest.approx([1.0, 0.5, 0.0])
    assert embedding_similarity(one.direction_D, 0 * one.direction_D) == 0.5


calls = st.sampled_from([LEFT, RIGHT, READ, zoom(100, 100, 500, 300), None])
behaviours = st.builds(
    lambda made, z: behaviour_of(acted("1", *made, z=z)),
    st.lists(calls, max_size=6),
    st.tuples(*[st.floats(-100, 100)] * 4),
)


@given(behaviours, behaviours, st.floats(0, 1))
def test_similarity_is_symmetric_and_a_share(one, other, share):
    found = similarity(one, other, operation_share=share)
    assert 0 <= found <= 1
    assert found == similarity(other, one, operation_share=share)


@given(st.lists(calls.filter(bool), max_size=6), st.tuples(*[st.floats(0.1, 100)] * 3))
def test_a_valid_trajectory_acts_like_itself(made, z):
    one = behaviour_of(acted("1", *made, z=z))
    assert similarity(one, one, operation_share=0.5) == pytest.approx(1, abs=1e-12)


corners = st.integers(0, 999)
boxes = st.builds(
    lambda x, y, w, h: (x, y, min(x + w, 1000), min(y + h, 1000)),
    corners,
    corners,
    st.integers(1, 1000),
    st.integers(1, 1000),
)


@given(boxes, boxes)
def test_box_overlap_is_symmetric_and_one_only_for_the_same(one, other):
    found = box_overlap(one, other)
    assert 0 <= found <= 1
    assert found == box_overlap(other, one)
    assert (found == 1) == (one == other)
