"""Exercises in numbers: what they say is what tools say, and the answer follows from it."""

import json

import numpy as np
import pytest

from pixelis_fast.copies import copied_numbers, copied_tokens, words_of
from pixelis_fast.data.drills import PAIRS, ROWS, TEXTS, track_of, wordings
from pixelis_fast.data.evident import THIRDS_X, THIRDS_Y, third
from pixelis_fast.data.pixelworld import PixelWorld, PixelWorldConfig
from pixelis_fast.data.pixelworld.track import PLACES
from pixelis_fast.data.pixelworld.words import FURTHER, WORDINGS, is_of_split
from pixelis_fast.data.prepare import counts_of, prepare
from pixelis_fast.data.prepared import Prepared
from pixelis_fast.data.preparer import PrepareConfig, Preparer
from pixelis_fast.phases.sft_data import by_picture
from pixelis_fast.policy.limits import PatchShape

GROUPS = 6


@pytest.fixture(scope="module")
def preparer() -> Preparer:
    return Preparer(PrepareConfig(drills=GROUPS))


@pytest.fixture(scope="module")
def examples(preparer):
    return [example for number in range(GROUPS) for example in preparer.drills(number)]


def said(preparer, example) -> str:
    trajectory = example.trajectory
    return preparer.opened.tokenizer.decode(trajectory.ids[trajectory.steps[-1].start :])


def test_a_group_is_a_track_signs_and_comparisons_without_a_picture(examples):
    kinds = ["track", *["read"] * TEXTS, *["compare"] * PAIRS]
    assert [e.task for e in examples] == kinds * GROUPS
    assert all(e.trajectory.sample.media == () for e in examples)
    assert not any(e.is_whole for e in examples)
    assert len(by_picture(examples)) == 3 * GROUPS, "of each kind apart"


def test_the_larger_number_is_the_answer(preparer, examples):
    first = 0
    pairs = [e for e in examples if e.task == "compare"]
    for example in pairs:
        _, quoted, answer = said(preparer, example).split("\n")
        a, b, _, which = quoted.split()
        assert example.trajectory.answer == (a if float(a) > float(b) else b)
        assert which == ("first" if float(a) > float(b) else "second")
        assert f"<answer>{example.trajectory.answer}</answer>" in answer
        assert a in example.trajectory.sample.question
        first += which == "first"
    assert 0.2 < first / len(pairs) < 0.8


def test_a_track_ends_where_the_answer_says_and_the_thought_quotes_it(preparer, examples):
    words = words_of(preparer.opened.tokenizer)
    for example in (e for e in examples if e.task == "track"):
        trajectory = example.trajectory
        assert example.imitated == (False, True)
        rows = json.loads(trajectory.steps[0].observation.text)["track"]
        _, quoted, _ = said(preparer, example).split("\n")
        assert [int(value) for value in quoted.split(",")] == rows[-1][1:]
        sources = [source for _, source in copied_numbers(example, words)]
        assert len(sources) == len(quoted), "every digit and comma is a guided copy"
        assert ends(rows) >= {trajectory.answer}


def test_a_sign_s_answer_is_what_was_read(preparer, examples):
    words = words_of(preparer.opened.tokenizer)
    signs = [e for e in examples if e.task == "read"]
    for example in signs:
        trajectory = example.trajectory
        [line] = json.loads(trajectory.steps[0].observation.text)["lines"]
        assert line["text"] == trajectory.answer
        assert is_of_split(trajectory.answer, "train")
        assert list(copied_tokens(example, words)), "the copy is guided"
    assert len({e.trajectory.answer for e in signs}) > 0.9 * len(signs)


def ends(rows) -> set[str]:
    _, x0, y0, x1, y1 = rows[-1]
    return {third((x0 + x1) / 2, THIRDS_X), third((y0 + y1) / 2, THIRDS_Y)}


@pytest.mark.parametrize("across", [True, False])
def test_tracks_go_from_place_to_place_inside_the_frame(across):
    rng = np.random.default_rng(0)
    for start in range(3):
        for end in range(3):
            rows = track_of(start, end, rng, across=across)
            assert ROWS[0] <= len(rows) <= ROWS[1]
            assert [row[0] for row in rows] == sorted({row[0] for row in rows})
            assert all(0 <= value <= 1000 for row in rows for value in row[1:])
            assert PLACES[across][end][0] in ends(rows)
            assert PLACES[across][start][0] in ends(rows[:1])


def test_wordings_are_those_of_training(examples):
    starts = {
        use: tuple(text.split("{")[0].removesuffix("the ") for text in wordings(use))
        for use in ("compare", "read", "track")
    }
    assert all(e.trajectory.sample.question.startswith(starts[e.task]) for e in examples)


def test_they_are_prepared_without_drawing_a_task_and_are_repeatable(tmp_path, monkeypatch):
    monkeypatch.setattr(PixelWorld, "task", lambda *_: pytest.fail("nothing is to be drawn"))
    config = PrepareConfig(whole=0, grounding=0, drills=2)
    for name in "ab":
        prepare(tmp_path / name, config, PixelWorldConfig(backgrounds="procedural"))
    assert counts_of(tmp_path / "a", config) == {"drill": 2 * (1 + TEXTS + PAIRS)}
    a, b = (Prepared([tmp_path / name], PatchShape()).examples for name in "ab")
    assert [e.trajectory.ids for e in a] == [e.trajectory.ids for e in b]


@pytest.mark.parametrize("use", sorted(WORDINGS))
def test_no_wording_of_training_is_one_of_tests_own(use):
    usual, own = WORDINGS[use]
    assert not set(own) & {*usual, *FURTHER[use]}
    assert not set(usual) & set(FURTHER[use])
