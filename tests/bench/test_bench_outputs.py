"""Equality of two runs: it holds for equal runs, and each kind of difference is caught by name."""

from dataclasses import replace

import numpy as np
import pytest

from bench.cases import Case, answer, step
from bench.outputs import (
    ChainRun,
    ToolOutput,
    compare,
    compare_ablated,
    mask_iou,
    text_error,
    time_overlap,
)

CASE = Case(
    "fake",
    ("invoice",),
    "?",
    (
        step("", "zoom", media=0, box=[0, 0, 500, 500]),
        step("", "read_text", media=0, text="TOTAL DUE"),
        step("", "segment", media=0, box=[0, 0, 500, 500]),
        step("", "localize", media=0, event="change"),
        step("", "properties", mask=0),
        answer("", "x"),
    ),
)
MASK = np.zeros((20, 20), dtype=bool)
MASK[5:15, 5:15] = True
OUTPUTS = (
    ToolOutput("zoom", size=(64, 64)),
    ToolOutput("read_text", text="TOTAL DUE"),
    ToolOutput("segment", masks=(MASK,)),
    ToolOutput("localize", spans=((1.0, 2.0),)),
    ToolOutput("properties", values={"area": 250.0}),
)
RUN = ChainRun({}, 1.0, 1.0, [1, 2, 3, 4], {2: -1.0, 3: -2.0}, 7, OUTPUTS)


def failed(ours: ChainRun, baseline: ChainRun = RUN) -> list[str]:
    checks = compare(CASE, [baseline], [ours], dtype="float32")
    return [check.check for check in checks if not check.passed]


def with_output(index: int, **changes) -> ChainRun:
    outputs = list(OUTPUTS)
    outputs[index] = replace(outputs[index], **changes)
    return replace(RUN, outputs=tuple(outputs))


def test_equal_runs_are_equal():
    assert failed(RUN) == []


@pytest.mark.parametrize(
    ("ours", "check"),
    [
        (replace(RUN, ids=[1, 2, 3, 5]), "token ids"),
        (replace(RUN, ids=[1, 2, 3]), "number of tokens"),
        (replace(RUN, num_image_tokens=8), "image tokens"),
        (replace(RUN, logprobs={2: -1.0, 3: -2.1}), "largest log-prob difference"),
        (replace(RUN, logprobs={}), "largest log-prob difference"),
        (replace(RUN, outputs=OUTPUTS[:-1]), "tools of ours"),
        (with_output(0, size=(64, 32)), "step 0 crop size"),
        (with_output(1, text="TOTAL XYZ"), "step 1 text: error of ours"),
        (with_output(2, masks=(np.roll(MASK, 5, 0),)), "step 2 segment IoU"),
        (with_output(2, masks=(None,)), "step 2 segment IoU"),
        (with_output(3, spans=((5.0, 6.0),)), "step 3 time overlap"),
        (with_output(3, spans=()), "step 3 time overlap"),
        (with_output(4, values={"area": 400.0}), "step 4 area ratio"),
        (with_output(2, error="no weights"), "step 2 segment"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_difference_is_caught(ours, check):
    assert check in failed(ours)


@pytest.mark.parametrize(
    ("ablated", "reads_otherwise", "check"),
    [
        (RUN, False, None),
        (with_output(1, text="TOTAL DUF"), False, "- x: step 1 read_text"),
        (with_output(1, text="TOTALDUE"), True, "- x: step 1 read_text, text distance"),
        (with_output(2, masks=(np.roll(MASK, 1, 0),)), True, "- x: step 2 segment"),
        (with_output(2, masks=(None,)), False, "- x: step 2 segment"),
        (with_output(4, values={"area": 251.0}), False, "- x: step 4 properties"),
        (replace(RUN, ids=[1, 2, 3, 5]), False, "- x: token ids"),
        (replace(RUN, logprobs={2: -1.5}), False, "- x: largest log-prob difference"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_ablation_must_find_the_same(ablated, reads_otherwise, check):
    arguments = {"dtype": "float32", "reads_otherwise": reads_otherwise}
    checks = compare_ablated(CASE, "- x", [RUN], [ablated], **arguments)
    assert [each.check for each in checks if not each.passed] == ([check] if check else [])


def test_log_probs_are_compared_over_all_runs():
    apart = replace(RUN, logprobs={2: -1.5})
    checks = compare(CASE, [RUN, RUN], [apart, RUN], dtype="float32")
    assert [c.value for c in checks if c.check == "largest log-prob difference"] == [0.5]


def test_only_tokens_chosen_in_both_arms_are_compared():
    assert failed(replace(RUN, logprobs={3: -2.0})) == []


@pytest.mark.parametrize(
    ("read", "expected", "error"),
    [("abc", "abc", 0.0), ("ab c", "ab  c", 0.0), ("abd", "abc", 1 / 3), ("", "abcd", 1.0)],
    ids=str,
)
def test_text_error(read, expected, error):
    assert text_error(read, expected) == pytest.approx(error)


def test_mask_iou():
    assert mask_iou(MASK, MASK) == 1.0
    assert mask_iou(MASK, ~MASK) == 0.0
    assert mask_iou(None, None) == 1.0
    assert mask_iou(None, MASK) == 0.0
    assert mask_iou(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 1.0


@pytest.mark.parametrize(
    ("left", "right", "overlap"),
    [((0, 2), (1, 3), 0.5), ((0, 4), (1, 2), 1.0), ((0, 1), (2, 3), 0.0), ((1, 1), (0, 2), 1.0)],
    ids=str,
)
def test_time_overlap(left, right, overlap):
    assert time_overlap(left, right) == overlap
