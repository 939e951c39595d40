"""Scores by hand, kind by kind; what cannot be read scores 0 or, in a truth, is an error."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from pixelis_fast.scoring import (
    anls,
    answer_score,
    box_iou,
    parse_number,
    parse_span,
    span_iou,
)
from pixelis_fast.types import AnswerKind

EXACT, NUMBER, TEXT = AnswerKind.EXACT, AnswerKind.NUMBER, AnswerKind.TEXT
BOX, SPAN = AnswerKind.BOX, AnswerKind.SPAN


@pytest.mark.parametrize(
    ("kind", "answer", "truth", "score"),
    [
        (EXACT, " The  LEFT one. ", "the left one", 1),
        (EXACT, '"KX42"', "kx42", 1),
        (EXACT, "KX42!", "KX43", 0),
        (EXACT, "", "left", 0),
        (NUMBER, "24 coins", "24", 1),
        (NUMBER, "24.0", "24", 1),
        (NUMBER, "about 1,200 m", "1200", 1),
        (NUMBER, "Three coins", "3", 1),
        (NUMBER, "24.1", "24", 0),
        (NUMBER, "-24", "24", 0),
        (NUMBER, "3 or 4", "3", 0),
        (NUMBER, "the one on the left", "1", 0),
        (NUMBER, "2.6s", "2.4", 1),
        (NUMBER, "2.2", "2.4", 1),
        (NUMBER, "2.61", "2.4", 0),
        (NUMBER, "2", "2.0", 1),
        (NUMBER, "2.43", "2.40", 0),
        (NUMBER, "many", "2", 0),
        (TEXT, "KX42", "kx42", 1),
        (TEXT, "KX43", "KX42", 0.75),
        (TEXT, "ab", "abcd", 0.5),
        (TEXT, "a", "abcd", 0),
        (TEXT, "", "abcd", 0),
        (BOX, "[0, 0, 100, 100]", "[0,0,100,100]", 1),
        (BOX, "(50 0 150 100).", "0, 0, 100, 100", 1 / 3),
        (BOX, "[0, 0, 100]", "[0,0,100,100]", 0),
        (BOX, "[100, 0, 0, 100]", "[0,0,100,100]", 0),
        (BOX, "[0, 0, 100, 1001]", "[0,0,100,100]", 0),
        (BOX, f"[0, 0, 100, {'9' * 5000}]", "[0,0,100,100]", 0),
        (SPAN, "1.0 to 3 s", "[2, 4]", 1 / 3),
        (SPAN, "from 2s to 4 seconds", "2-4", 1),
        (SPAN, "4 to 2", "2-4", 0),
        (SPAN, "2", "2-4", 0),
    ],
)
def test_scores_by_hand(kind, answer, truth, score):
    assert answer_score(kind, answer, truth) == pytest.approx(score)


@pytest.mark.parametrize(("kind", "truth"), [(NUMBER, "many"), (NUMBER, "3 to 4"), (BOX, "left")])
def test_a_truth_that_cannot_be_read_is_an_error(kind, truth):
    with pytest.raises(ValueError, match=f"truth: expected an answer of kind {kind.value}, got"):
        answer_score(kind, "3", truth)


@pytest.mark.parametrize("kind", list(AnswerKind))
def test_empty_truths_are_errors_and_no_answer_scores_nothing(kind):
    with pytest.raises(ValueError, match="truth: expected"):
        answer_score(kind, "left", " ")
    truths = {BOX: "[0,0,9,9]", SPAN: "0-1", NUMBER: "3"}
    assert answer_score(kind, None, truths.get(kind, "left")) == 0


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,2345", None),
        ("1.2.3", None),
        ("12e5", None),
        ("KX42", None),
        ("\u22127", -7),
        ("7 7", 7),
    ],
)
def test_numbers_are_read_whole_or_not_at_all(text, number):
    assert parse_number(text) == number


def test_anls_takes_the_nearest_truth():
    assert anls("TAXL", ["bus", "TAXI"]) == 0.75


@given(st.text(), st.sampled_from(list(AnswerKind)))
def test_any_text_is_scored_within_bounds(answer, kind):
    truths = {BOX: "[0,0,9,9]", SPAN: "0-1", NUMBER: "3"}
    assert 0 <= answer_score(kind, answer, truths.get(kind, "left")) <= 1


boxes = st.tuples(*[st.integers(0, 999)] * 4).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]) + 1, max(b[1], b[3]) + 1)
)


@given(boxes, boxes)
def test_box_iou_agrees_with_pycocotools(one, other):
    as_xywh = [[[x0, y0, x1 - x0, y1 - y0]] for x0, y0, x1, y1 in (one, other)]
    [[theirs]] = coco.iou(*(np.array(b, float) for b in as_xywh), [0])
    assert box_iou(one, other) == pytest.approx(theirs)


def test_moments():
    assert span_iou((2.0, 2.0), (2.0, 2.0)) == 1
    assert span_iou((2.0, 2.0), (2.0, 3.0)) == 0
    assert parse_span("2 to 2") == (2.0, 2.0)
