"""Gates: each metric against a case worked out by hand, and probes that could not fail refused."""

import json
import math

import pytest
import torch

from pixelis_fast.tools_trt.graphs.gate_metrics import (
    METRICS,
    ProbeError,
    edit_distance,
    mask_boxes,
)
from pixelis_fast.tools_trt.graphs.gates import (
    Check,
    Gate,
    GateReport,
    embedding_checks,
    mask_checks,
    text_checks,
)


def measure(metric, reference, candidate, threshold=0.0):
    return METRICS[metric].measure([(reference, candidate)], threshold)


def square(first, last, side=20):
    """Logits of a mask that covers rows and columns first..last - 1."""
    mask = torch.full((1, 1, side, side), -1.0)
    mask[..., first:last, first:last] = 1.0
    return mask


def one_hot(ids, classes=5):
    return torch.nn.functional.one_hot(torch.tensor([ids]), classes).float()


def test_mask_metrics():
    reference, candidate = square(2, 12), square(2, 14)
    assert measure("mask_iou_mean", reference, candidate) == pytest.approx(100 / 144)
    assert measure("mask_iou_p01", reference, candidate) == pytest.approx(100 / 144)
    assert measure("box_px", reference, candidate) == 2
    assert measure("box_px", reference, reference) == 0


def test_a_box_is_measured_in_pixels_of_the_input():
    """On the coarse grid half a step is nothing; enlarged by four it is two pixels."""
    reference, candidate = square(2, 12), square(2, 12)
    candidate[..., 12, 2:12] = candidate[..., 2:12, 12] = -0.01
    candidate[..., 12, 12] = -0.01
    coarse, fine = (
        Gate((Check("masks", "box_px", 1.0, scale=scale),)).compare(
            [{"masks": reference}], [{"masks": candidate}]
        )
        for scale in (1, 4)
    )
    assert (coarse.results[-1].value, coarse.passed) == (0, True)
    assert (fine.results[-1].value, fine.passed) == (2, False)
    whole_step = Gate((Check("masks", "box_px", 1.0, scale=4),)).compare(
        [{"masks": reference}], [{"masks": square(2, 13)}]
    )
    assert whole_step.results[-1].value == 4
    with pytest.raises(ValueError, match="scale: expected at least 1, got 0"):
        Check("masks", "box_px", 1.0, scale=0)


def test_the_first_percentile_sees_one_bad_mask():
    reference = square(2, 12).expand(1, 50, 20, 20)
    candidate = reference.clone()
    candidate[:, 0] = -1
    assert measure("mask_iou_mean", reference, candidate) == pytest.approx(49 / 50)
    assert measure("mask_iou_p01", reference, candidate) < 0.6


def test_a_mask_threshold_counts():
    reference, candidate = 0.5 * square(2, 12), 0.2 * square(2, 12)
    assert measure("mask_iou_mean", reference, candidate, threshold=0.3) == 0
    assert measure("mask_iou_mean", reference, candidate, threshold=0.1) == 1


def test_mask_boxes():
    masks = torch.zeros(2, 6, 8, dtype=torch.bool)
    masks[0, 1:4, 2:7] = True
    assert mask_boxes(masks).tolist() == [[2, 7, 1, 4], [0, 0, 0, 0]]


def test_cosine_takes_the_worst_item():
    reference = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    candidate = torch.tensor([[1.0, 0.0], [2.0, 2.0]])
    assert measure("cosine", reference, candidate) == pytest.approx(math.sqrt(0.5))


def test_score_metrics():
    reference, candidate = torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, -1.5]])
    assert measure("max_abs", reference, candidate) == 0.5
    expected = math.sqrt(0.125) / math.sqrt(2)
    assert measure("relative_rms", reference, candidate) == pytest.approx(expected)


def test_text_metrics():
    reference, candidate = one_hot([1, 1, 0, 2, 3]), one_hot([1, 0, 0, 2, 4])
    assert measure("ctc_argmax", reference, candidate) == pytest.approx(3 / 5)
    assert measure("cer_change", reference, candidate) == pytest.approx(1 / 3)
    assert measure("cer_change", one_hot([1, 0, 1]), one_hot([1, 1, 1])) == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)],
)
def test_edit_distance(one, other, expected):
    assert edit_distance(one, other) == expected


@pytest.mark.parametrize("metric", ["mask_iou_mean", "mask_iou_p01", "box_px"])
@pytest.mark.parametrize("value", [-1.0, 1.0])
def test_masks_that_say_nothing_are_refused(metric, value):
    with pytest.raises(ProbeError, match="neither empty nor full"):
        measure(metric, torch.full((1, 1, 4, 4), value), torch.full((1, 1, 4, 4), value))


def test_text_probes_without_text_are_refused():
    with pytest.raises(ProbeError, match="at least one character"):
        measure("cer_change", one_hot([0, 0]), one_hot([0, 0]))


def test_a_gate_passes_and_fails():
    gate = Gate((*mask_checks("masks"), *embedding_checks("code"), *text_checks("text")))
    outputs = {
        "masks": square(2, 12),
        "code": torch.tensor([[1.0, 2.0]]),
        "text": one_hot([1, 0, 2]),
    }
    assert gate.compare([outputs], [outputs]).passed
    worse = outputs | {"code": torch.tensor([[1.0, 2.5]])}
    report = gate.compare([outputs], [worse])
    assert not report.passed
    assert "code cosine 0.99" in report.failures()
    assert "masks" not in report.failures()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_every_output_must_be_finite(value):
    gate = Gate(embedding_checks("code"))
    reference = {"code": torch.ones(1, 2), "other": torch.ones(1, 2)}
    report = gate.compare([reference], [reference | {"other": torch.tensor([[1.0, value]])}])
    assert not report.passed
    assert report.failures().startswith("other finite 0")


def test_a_report_travels_as_json():
    outputs = {"code": torch.ones(1, 2)}
    report = Gate(embedding_checks("code")).compare([outputs], [outputs])
    document = json.loads(json.dumps(report.to_json()))
    assert document["passed"] is True
    assert GateReport.from_json(document) == report


def test_room_says_how_close_a_check_was():
    outputs = {"code": torch.ones(1, 2)}
    report = Gate((Check("code", "max_abs", 0.5),)).compare(
        [outputs], [{"code": torch.tensor([[1.0, 1.125]])}]
    )
    assert report.results[-1].room == pytest.approx(0.75)


def test_bad_gates_are_refused():
    with pytest.raises(ValueError, match=r"metric: expected one of .*, got 'beauty'"):
        Check("code", "beauty", 1.0)
    with pytest.raises(ValueError, match="expected an output of a, got b"):
        Gate(embedding_checks("b")).check_outputs(["a"])
    with pytest.raises(ValueError, match="as many probes on both sides"):
        Gate(()).compare([], [])
