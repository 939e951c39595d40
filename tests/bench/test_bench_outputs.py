"""Equality of two runs: it holds for equal runs, and each kind of difference is caught by name."""

from dataclasses import replace

import numpy as np
import pytest

from bench.cases import Case, answer, step
from bench.outputs import (
    ChainRun,
    ToolOutput,
    angle_difference,
    box_iou,
    compare,
    compare_ablated,
    mask_iou,
    text_error,
    time_iou,
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
NEARLY = MASK.copy()
NEARLY[5, 5] = False
CROP = np.full((64, 64, 3), 100, np.uint8)
VALUES = {
    "area": 250.0,
    "box": [250, 250, 750, 750],
    "center": [500, 500],
    "rgb": [10, 20, 30],
    "angle": 89.0,
    "elongation": 2.0,
}
OUTPUTS = (
    ToolOutput("zoom", picture=CROP),
    ToolOutput("read_text", text="TOTAL DUE"),
    ToolOutput("segment", masks=(MASK,)),
    ToolOutput("localize", spans=((1.0, 2.0),)),
    ToolOutput("properties", values=VALUES),
)
RUN = ChainRun({}, 1.0, 1.0, [1, 2, 3, 4], {2: -1.0, 3: -2.0}, 7, OUTPUTS)


def failed(ours: ChainRun, baseline: ChainRun = RUN) -> list[str]:
    checks = compare(CASE, [baseline], [ours], dtype="float32")
    return [check.check for check in checks if not check.passed]


def with_output(index: int, **changes) -> ChainRun:
    outputs = list(OUTPUTS)
    outputs[index] = replace(outputs[index], **changes)
    return replace(RUN, outputs=tuple(outputs))


def with_values(**changes) -> ChainRun:
    return with_output(4, values=VALUES | changes)


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
        (with_output(0, picture=CROP[:32]), "step 0 crop size"),
        (with_output(0, picture=CROP + 2), "step 0 crop, mean pixel difference"),
        (with_output(1, text="TOTAL DUF"), "step 1 text: distance"),
        (with_output(1, text="TOTAL XYZ"), "step 1 text: error of ours"),
        (with_output(2, masks=(np.roll(MASK, 5, 0),)), "step 2 segment IoU"),
        (with_output(2, masks=(None,)), "step 2 segment IoU"),
        (with_output(3, spans=((5.0, 6.0),)), "step 3 time IoU"),
        (with_output(3, spans=()), "step 3 time IoU"),
        (with_output(3, spans=((1.0, 2.0), (4.0, 6.0))), "step 3 time IoU"),
        (with_output(3, spans=((1.4, 1.6),)), "step 3 time IoU"),
        (with_values(area=300.0), "step 4 area ratio"),
        (with_values(rgb=[10, 20, 45]), "step 4 color difference"),
        (with_values(center=[500, 560]), "step 4 distance of centers"),
        (with_values(box=[500, 250, 1000, 750]), "step 4 box IoU"),
        (with_values(angle=20.0), "step 4 angle difference"),
        (with_output(2, error="no weights"), "step 2 segment"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_difference_is_caught(ours, check):
    assert check in failed(ours)


@pytest.mark.parametrize(
    ("ablated", "otherwise", "check"),
    [
        (RUN, None, None),
        (with_output(1, text="TOTAL DUF"), None, "- x: step 1 read_text"),
        (with_output(1, text="TOTALDUE"), "text", "- x: step 1 read_text, text distance"),
        (with_output(2, masks=(np.roll(MASK, 1, 0),)), "text", "- x: step 2 segment"),
        (with_output(2, masks=(None,)), None, "- x: step 2 segment"),
        (with_output(2, masks=(NEARLY,)), "masks", None),
        (with_output(2, masks=(np.roll(MASK, 2, 0),)), "masks", "- x: step 2 segment, mask IoU"),
        (with_output(2, masks=()), "masks", "- x: step 2 segment"),
        (with_output(1, text="TOTAL DUF"), "masks", "- x: step 1 read_text"),
        (with_output(0, picture=CROP + 1), None, "- x: step 0 zoom"),
        (with_values(area=251.0), None, "- x: step 4 properties"),
        (replace(RUN, ids=[1, 2, 3, 5]), None, "- x: token ids"),
        (replace(RUN, logprobs={2: -1.5}), None, "- x: largest log-prob difference"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_ablation_must_find_the_same(ablated, otherwise, check):
    arguments = {"dtype": "float32", "otherwise": otherwise}
    checks = compare_ablated(CASE, "- x", [RUN], [ablated], **arguments)
    assert [each.check for each in checks if not each.passed] == ([check] if check else [])


def test_log_probs_are_compared_over_all_runs():
    apart = replace(RUN, logprobs={2: -1.5})
    checks = compare(CASE, [RUN, RUN], [apart, RUN], dtype="float32")
    assert [c.value for c in checks if c.check == "largest log-prob difference"] == [0.5]


@pytest.mark.parametrize(
    ("odd", "check"),
    [
        (replace(RUN, ids=[1, 2, 3, 5]), "token ids"),
        (with_output(2, masks=(None,)), "step 2 segment IoU"),
        (with_output(0, picture=CROP + 2), "step 0 crop, mean pixel difference"),
    ],
    ids=["tokens", "mask", "crop"],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_every_run_is_held(odd, check, place):
    ours = [RUN, RUN, RUN]
    ours[place] = odd
    checks = compare(CASE, [RUN] * 3, ours, dtype="float32")
    assert check in [each.check for each in checks if not each.passed]
    assert len(checks) == len(compare(CASE, [RUN], [RUN], dtype="float32"))
    ablated = compare_ablated(CASE, "- x", [RUN] * 3, ours, dtype="float32", otherwise=None)
    assert len([each for each in ablated if not each.passed]) == 1


def test_what_is_told_is_the_run_nearest_its_limit():
    runs = [with_output(2, masks=(mask,)) for mask in (MASK, NEARLY, MASK)]
    checks = compare(CASE, [RUN] * 3, runs, dtype="float32")
    assert [c.value for c in checks if c.check == "step 2 segment IoU"] == [pytest.approx(0.99)]


def test_a_round_region_has_no_direction():
    round_one = with_values(elongation=1.1)
    assert failed(with_values(angle=20.0), baseline=round_one) == []


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
    ("left", "right", "iou"),
    [
        ([(0, 2)], [(1, 3)], 1 / 3),
        ([(0, 4)], [(1, 2)], 0.25),
        ([(0, 1)], [(2, 3)], 0.0),
        ([(0, 1), (2, 3)], [(0, 3)], 2 / 3),
        ([(2, 3), (0, 1)], [(0, 1), (2, 3)], 1.0),
        ([], [], 1.0),
        ([(1, 1)], [], 0.0),
    ],
    ids=str,
)
def test_time_iou(left, right, iou):
    assert time_iou(left, right) == pytest.approx(iou)
    assert time_iou(right, left) == pytest.approx(iou)


def test_box_iou():
    assert box_iou([0, 0, 2, 2], [0, 0, 2, 2]) == 1.0
    assert box_iou([0, 0, 2, 2], [1, 0, 3, 2]) == pytest.approx(1 / 3)
    assert box_iou([0, 0, 1, 1], [2, 2, 3, 3]) == 0.0


@pytest.mark.parametrize(
    ("left", "right", "apart"), [(89, -89, 2), (10, 190, 0), (0, 90, 90), (-45, 45, 90)], ids=str
)
def test_angle_difference(left, right, apart):
    assert angle_difference(left, right) == apart
