"""Generated tasks: determinism, validity of what they claim, and splits."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from pixelis_fast.data.pixelworld import FAMILIES, SPLITS, PixelWorld, PixelWorldConfig, backgrounds
from pixelis_fast.data.pixelworld.config import Brief
from pixelis_fast.data.pixelworld.track import _phases, _slots
from pixelis_fast.data.pixelworld.words import (
    CODE_DIGITS,
    CODE_LETTERS,
    COLORS,
    SIGN_WORDS,
    WORDINGS,
    is_of_split,
)
from pixelis_fast.data.shift import ShiftConfig
from pixelis_fast.schemas import format_call, parse_call
from pixelis_fast.types import AnswerKind

POLICY_SIDE = 192


def world(family=None, **settings):
    weights = {family: 1.0} if family else dict.fromkeys(FAMILIES, 1.0)
    return PixelWorld(PixelWorldConfig(families=weights, **settings))


def tasks(family, count=6, split="train", **settings):
    made = world(family, **settings)
    return [made.task(split, n) for n in range(count)]


def plain(task):
    """All of a task but its pixels."""
    return str(asdict(replace(task, frames=np.zeros(0))))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_task_depends_on_seed_split_and_number_alone(family):
    one, other = world(family, seed=3), world(family, seed=3)
    other.task("train", 0)
    first, second = one.task("val", 5), other.task("val", 5)
    assert np.array_equal(first.frames, second.frames)
    assert plain(first) == plain(second)
    for different in (
        world(family, seed=4).task("val", 5),
        one.task("val", 6),
        one.task("train", 5),
    ):
        assert different.frames.shape != first.frames.shape or not np.array_equal(
            different.frames, first.frames
        )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("split", SPLITS)
def test_plans_are_calls_that_the_tools_take(family, split):
    for task in tasks(family, split=split):
        lengths = [len(plan) for plan in task.plans]
        assert lengths[0] == min(lengths)
        assert max(lengths) <= 6
        for turn in (turn for plan in task.plans for turn in plan):
            assert parse_call(format_call(turn.call)) == turn.call
            assert turn.call.arguments.get("media", 0) == 0
            assert len(turn.thought.split()) <= 8
            for name in ("time", "start", "end"):
                assert 0 <= turn.call.arguments.get(name, 0) < max(task.duration_s, 0.1)


@pytest.mark.parametrize("family", FAMILIES)
def test_arguments_lie_around_their_targets(family):
    for turn in (turn for task in tasks(family) for plan in task.plans for turn in plan):
        if "box" in turn.call.arguments:
            x0, y0, x1, y1 = turn.call.arguments["box"]
            a0, b0, a1, b1 = turn.target.box
            assert x0 <= a0 <= a1 <= x1
            assert y0 <= b0 <= b1 <= y1


@pytest.mark.parametrize("family", FAMILIES)
def test_objects_and_evidence_lie_inside_the_frame(family):
    for task in tasks(family):
        boxes = [one.box for one in (*task.objects, *task.evidence) if one.box is not None]
        for x0, y0, x1, y1 in boxes:
            assert 0 <= x0 < x1 <= 1000
            assert 0 <= y0 < y1 <= 1000
        assert task.frames.dtype == np.uint8
        assert task.frames.ndim == 4
        assert 0 <= task.difficulty <= 1


def test_questions_are_short_and_plain():
    made = world()
    for task in (made.task(split, n) for split in SPLITS for n in range(40)):
        assert len(task.question.split()) <= 14
        assert task.question == task.question.lower()
        assert task.question.strip() == task.question


def test_test_asks_otherwise_in_words_that_train_uses():
    def spoken(texts):
        return {word.strip(",") for text in texts for word in text.split()}

    usual = spoken(text for wordings, _ in WORDINGS.values() for text in wordings)
    for wordings, own in WORDINGS.values():
        assert own
        assert not set(own) & set(wordings)
        assert spoken(own) <= usual


def test_no_text_is_on_signs_of_two_splits():
    texts = {
        split: {one.text for task in tasks("read", 25, split) for one in task.objects if one.text}
        for split in SPLITS
    }
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["val"]
    for split, seen in texts.items():
        assert len(seen) > 20
        assert all(is_of_split(text, split) for text in seen)
    assert all(any(is_of_split(word, split) for word in SIGN_WORDS) for split in SPLITS)


def test_codes_hold_nothing_that_looks_like_something_else():
    assert not set("O0I1lS5B8Z2") & set(CODE_LETTERS + CODE_DIGITS)


def test_markers_are_visible_to_a_small_policy_and_details_are_not():
    for family in ("read", "compare", "count", "spatial", "multi"):
        for task in tasks(family):
            for one in task.objects:
                side = max(one.box[2] - one.box[0], one.box[3] - one.box[1])
                if one.kind == "marker":
                    assert side >= 70
                if one.kind in ("dot", "glyph"):
                    assert side * POLICY_SIDE / 1000 < {"dot": 1.6, "glyph": 3.0}[one.kind]


def test_identical_balls_stand_in_the_same_places_before_and_after():
    """First and last frame show the same balls at the same places: no answer in them."""
    for task in tasks("track", 8):
        first, last = task.frames[0].astype(int), task.frames[-1].astype(int)
        assert np.abs(first - last).max() <= 1
        assert (np.abs(task.frames.astype(int) - first).max((1, 2, 3)) > 30).any()


@pytest.mark.parametrize("start", [0, 1, 2])
def test_a_ball_ends_anywhere_equally_often(start):
    brief = Brief("b", "track", "train", PixelWorldConfig(), np.random.default_rng(start))
    ends = [_slots(_phases(brief, start))[start] for _ in range(300)]
    assert min(ends.count(slot) for slot in range(3)) > 75


def test_every_answer_of_a_family_occurs():
    counts = {task.answer for task in tasks("count", 60)}
    assert counts == set("123456")
    assert {task.answer for task in tasks("compare", 60)} == set(COLORS)
    places = {"left", "middle", "right", "top", "bottom"}
    assert {task.answer for task in tasks("track", 60)} == places


def test_the_larger_mask_is_the_answer():
    for task in tasks("compare", 10):
        pair = [one for one in task.objects if one.mask_rle is not None]
        assert len(pair) == 2
        sides = [(one.box[2] - one.box[0]) * (one.box[3] - one.box[1]) for one in pair]
        assert pair[0].shape == pair[1].shape
        assert pair[0].color != pair[1].color
        if pair[0].shape == "disk":
            assert pair[int(np.argmax(sides))].color == task.answer


def test_counted_dots_are_in_the_panel_asked_for():
    for task in tasks("count", 10):
        x0, y0, x1, y1 = task.evidence[0].box
        dots = [one.box for one in task.objects if one.kind == "dot"]
        inside = [b for b in dots if x0 <= b[0] and b[2] <= x1 and y0 <= b[1] and b[3] <= y1]
        assert str(len(inside)) == task.answer


def test_an_event_shows_in_the_frames_where_it_is_said_to():
    for task in tasks("localize", 12):
        start = round(float(task.answer) * task.fps)
        steps = np.abs(np.diff(task.frames.astype(int), axis=0)).max((1, 2, 3))
        is_appearance = "appear" in task.question or "first seen" in task.question
        assert int(np.flatnonzero(steps)[0]) == start - (1 if is_appearance else 0)
        assert task.answer_kind is AnswerKind.NUMBER


def test_a_shift_changes_pixels_alone():
    plainly, shifted = world("read"), world("read", shift=ShiftConfig("noise", 4))
    before, after = plainly.task("test", 2), shifted.task("test", 2)
    assert plain(before) == plain(after)
    assert np.abs(before.frames.astype(int) - after.frames).mean() > 5


def test_a_weight_of_zero_draws_nothing():
    made = PixelWorld(PixelWorldConfig(families={"read": 0.0, "count": 1.0}))
    assert {made.task("train", n).family for n in range(8)} == {"count"}


def test_photographs_of_test_are_its_own():
    assert not set(backgrounds.PHOTOS["train"]) & set(backgrounds.PHOTOS["test"])


def test_missing_photographs_are_named(monkeypatch):
    monkeypatch.setattr(backgrounds, "find_spec", lambda name: None)
    backgrounds._dimmed.cache_clear()
    with pytest.raises(ValueError, match="baseline"):
        world("read", backgrounds="photos").task("train", 0)
    assert world("read", backgrounds="procedural").task("train", 0).answer


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"families": {"dance": 1.0}}, "families"),
        ({"families": {}}, "families"),
        ({"families": {"read": 0.0}}, "families"),
        ({"backgrounds": "sea"}, "backgrounds"),
        ({"image_side": (800, 700)}, "image_side"),
        ({"video_s": (0.5, 4.0)}, "video_s"),
        ({"fps": 1}, "fps"),
    ],
)
def test_wrong_settings_are_named(settings, named):
    with pytest.raises(ValueError, match=f"{named}: expected"):
        PixelWorldConfig(**settings)


def test_wrong_splits_and_numbers_are_named():
    with pytest.raises(ValueError, match="split: expected"):
        world().task("dev", 0)
    with pytest.raises(ValueError, match="index: expected"):
        world().task("train", -1)
