"""The auxiliary heads: targets read off trajectories, losses against their textbook forms."""

from __future__ import annotations

import math

import pytest
import torch

from pixelis_fast.data.prepared import UNKNOWN, TokenLabels
from pixelis_fast.head_targets import NONE, OPERATIONS, HeadTargets, cell_of, head_targets
from pixelis_fast.heads import AuxiliaryHeads, DenseHead, box_giou, region_loss, span_loss
from pixelis_fast.types import (
    Evidence,
    Media,
    MediaKind,
    Sample,
    Step,
    TokenRole,
    ToolCall,
    Trajectory,
    VisionSpan,
)

IMAGE = Media("p", MediaKind.IMAGE, 400, 200)
VIDEO = Media("v", MediaKind.VIDEO, 320, 320, num_frames=30, duration_s=3.0)


def trajectory(call: ToolCall, *, media: Media = IMAGE, evidence: tuple[Evidence, ...] = ()):
    """Eight pads (or two frames of four), two tokens, then a turn of three."""
    spans = [VisionSpan(1, 8, "p", (1, 4, 8))]
    if media is VIDEO:
        spans = [VisionSpan(1, 4, "v", (2, 4, 4), 0), VisionSpan(5, 4, "v", (2, 4, 4), 1)]
    roles = [TokenRole.PROMPT] * 11 + [TokenRole.OPERATION, TokenRole.ARGUMENT, TokenRole.OPERATION]
    return Trajectory(
        Sample("1", (media,), "?", evidence=evidence),
        policy_version="",
        seed=0,
        ids=list(range(14)),
        roles=roles,
        spans=spans,
        steps=[Step(11, 14, call)],
    )


def test_a_box_gives_cell_centre_and_size():
    made = trajectory(ToolCall("zoom", {"media": 0, "box": [500, 0, 1000, 500]}))
    targets = head_targets([made, made], merge=2, imitated=None)
    assert targets.rows_R.tolist() == [11, 25]
    assert targets.ends_R.tolist() == [12, 26]
    assert targets.starts_R.tolist() == [0, 14]
    assert targets.operations_R.tolist() == [OPERATIONS.index("zoom")] * 2
    # Two rows of four cells; (0.75, 0.25) lies in the fourth of the first row.
    assert targets.cell_R.tolist() == [3, 3]
    assert targets.cell_box_R4[0].tolist() == [0.875, 0.25, 0.25, 0.5]
    assert targets.cells_RC[1].tolist() == list(range(15, 23))
    assert targets.region_R4[0].tolist() == [0.75, 0.25, 0.5, 0.5]
    assert not targets.span_known_R.any()


def test_a_point_has_no_size_and_a_mask_no_place():
    point = trajectory(ToolCall("segment", {"media": 0, "point": [10, 990]}))
    mask = trajectory(ToolCall("properties", {"mask": 0}))
    targets = head_targets([point, mask], merge=2, imitated=None)
    assert targets.cell_R.tolist() == [4, NONE]
    assert targets.region_known_R4.tolist() == [[True, True, False, False], [False] * 4]


def test_a_trap_is_no_target():
    made = trajectory(ToolCall("zoom", {"media": 0, "box": [0, 0, 10, 10]}))
    assert head_targets([made], merge=2, imitated=[[False]]) is None


def test_a_video_call_points_into_the_frames_of_its_time():
    call = ToolCall("zoom", {"media": 0, "box": [0, 0, 400, 400], "time": 2.0})
    targets = head_targets([trajectory(call, media=VIDEO)], merge=2, imitated=None)
    assert targets.cells_RC[0].tolist() == [5, 6, 7, 8]


def test_a_call_points_into_the_picture_it_names():
    first = trajectory(ToolCall("zoom", {"media": 0, "box": [0, 0, 100, 100]}))
    second = trajectory(ToolCall("zoom", {"media": 1, "box": [0, 0, 400, 400]}))
    beyond = trajectory(ToolCall("zoom", {"media": 2, "box": [0, 0, 400, 400]}))
    for made in (second, beyond):
        made.sample = Sample("1", (IMAGE, Media("q", MediaKind.IMAGE, 200, 200)), "?")
        made.spans.append(VisionSpan(9, 1, "q", (1, 2, 2)))
    targets = head_targets([first, second, beyond], merge=2, imitated=None)
    assert targets.cells_RC[1].tolist() == [14 + 9] + [NONE] * 7
    assert targets.cell_R.tolist() == [0, 0, NONE]
    assert targets.cell_box_R4[1].tolist() == [0.5, 0.5, 1.0, 1.0]
    assert (targets.cells_RC[2] == NONE).all()


def test_calls_of_a_batch_without_pictures_teach_their_operation_only():
    made = trajectory(ToolCall("properties", {"mask": 0}))
    targets = head_targets([made, made], merge=2, imitated=None)
    assert targets.cells_RC.shape == (2, 0)
    losses = AuxiliaryHeads(16)(torch.randn(28, 16, requires_grad=True), targets)
    losses.total().backward()
    assert losses.operation.item() > 0
    assert list(losses.parts()) == ["operation"]
    assert losses.pointed_right is None


def test_localize_takes_its_span_from_the_evidence_of_its_media():
    call = ToolCall("localize", {"media": 0, "event": "motion"})
    other = Evidence("localize", media=1, span=(0.0, 0.5))
    evidence = (other, Evidence("localize", span=(1.5, 3.0)))
    made = trajectory(call, media=VIDEO, evidence=evidence)
    targets = head_targets([made], merge=2, imitated=None)
    assert targets.span_R2[0].tolist() == [0.5, 1.0]


def test_a_target_on_the_far_edge_stays_in_the_picture():
    span = VisionSpan(0, 8, "p", (1, 4, 8))
    assert cell_of((1.0, 1.0, 0.0, 0.0), span, 2) == 7


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((0.5, 0.5, 0.4, 0.4), (0.5, 0.5, 0.4, 0.4), 1.0),
        ((0.25, 0.5, 0.5, 1.0), (0.75, 0.5, 0.5, 1.0), 0.0),
        # Unit squares a unit apart: IoU 0, a third of the hull empty.
        ((0.5, 0.5, 1.0, 1.0), (2.5, 0.5, 1.0, 1.0), -1 / 3),
    ],
)
def test_giou_is_its_definition(one, other, expected):
    found = box_giou(torch.tensor([one]), torch.tensor([other]))
    assert float(found) == pytest.approx(expected, abs=1e-6)


def targets_of(region, known, span=None) -> HeadTargets:
    return HeadTargets(
        rows_R=torch.tensor([2]),
        ends_R=torch.tensor([3]),
        starts_R=torch.tensor([0]),
        operations_R=torch.tensor([1]),
        cells_RC=torch.tensor([[0, 1, NONE]]),
        cell_R=torch.tensor([1]),
        cell_box_R4=torch.tensor([[0.5, 0.5, 1.0, 1.0]]),
        region_R4=torch.tensor([region]),
        region_known_R4=torch.tensor([known]),
        span_R2=torch.tensor([span or (0.0, 0.0)]),
        span_known_R=torch.tensor([span is not None]),
    )


def test_losses_are_nothing_at_the_target():
    box = (0.5, 0.5, 0.2, 0.4)
    targets = targets_of(box, [True] * 4, span=(0.25, 0.75))
    assert float(region_loss(torch.tensor([box]), targets)) == pytest.approx(0, abs=1e-6)
    assert float(span_loss(torch.tensor([(0.75, 0.25)]), targets)) == pytest.approx(0, abs=1e-6)
    away = float(region_loss(torch.tensor([(0.6, 0.5, 0.2, 0.4)]), targets))
    assert away > 0.1


def test_a_point_leaves_the_size_alone():
    targets = targets_of((0.5, 0.5, 0.0, 0.0), [True, True, False, False])
    found = torch.tensor([[0.3, 0.5, 0.9, 0.9]], requires_grad=True)
    region_loss(found, targets).backward()
    assert found.grad[0, 2:].tolist() == [0.0, 0.0]
    assert found.grad[0, 0] < 0


def test_the_pointer_learns_to_point_and_never_at_padding():
    torch.manual_seed(0)
    hidden_ND = torch.randn(3, 16)
    heads = AuxiliaryHeads(16, pointer_size=8)
    targets = targets_of((0.5, 0.5, 0.0, 0.0), [True, True, False, False])
    optimizer = torch.optim.Adam(heads.parameters(), lr=0.05)
    first = heads(hidden_ND, targets).pointer.item()
    for _ in range(50):
        optimizer.zero_grad()
        losses = heads(hidden_ND, targets)
        losses.total().backward()
        optimizer.step()
    assert first < 10  # a padded cell would be an infinite loss
    assert losses.pointer.item() < 0.05 < first
    assert losses.pointed_right == 1.0


NOWHERE = [-0.1] * 4
LABELS = TokenLabels(
    kinds_ML=torch.tensor([[0, 1], [UNKNOWN] * 2, [2, 0], [UNKNOWN] * 2, [1, 1]]),
    boxes_MT4=torch.tensor(
        [
            [[0.3, 0.5, 0.2, 0.5], NOWHERE],
            *[[NOWHERE, NOWHERE]] * 3,
            [[0.6, 0.5, 0.2, 0.5], [0.5, 0.5, 0.2, 0.5]],
        ]
    ),
    cells_M4=torch.tensor([[0.1, 0.5, 0.2, 1.0]] * 4 + [[0.5, 0.5, 0.2, 1.0]]),
)


def test_the_dense_head_leaves_unknown_tokens_alone():
    head = DenseHead(4, (3, 2))
    embeds_MD = torch.randn(5, 4, requires_grad=True)
    head(embeds_MD, LABELS).total().backward()
    assert embeds_MD.grad[[1, 3]].abs().max() == 0
    assert embeds_MD.grad[[0, 2, 4]].abs().max() > 0
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        head.box.bias.copy_(torch.tensor([0.5, 0.0, 1.0, 0.5, 0.0, 0.0, 1.0, 0.5]))
    losses = head(embeds_MD, LABELS)
    assert losses.kinds.item() == pytest.approx((math.log(3) + math.log(2)) / 2)
    # One of twelve numbers is off, by half a cell: smooth L1 with its bend at 0.05.
    assert losses.box.item() == pytest.approx((0.5 - 0.025) / 12, rel=1e-5)


def test_a_batch_without_labels_has_no_dense_loss():
    head = DenseHead(4, (3, 2))
    nothing = TokenLabels(
        torch.full((2, 2), UNKNOWN), torch.full((2, 2, 4), -0.1), torch.ones(2, 4)
    )
    losses = head(torch.randn(2, 4, requires_grad=True), nothing)
    losses.total().backward()
    assert losses.total().item() == 0.0
