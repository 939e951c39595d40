"""Guided attention: its rows, its loss against plain softmax, and what it teaches a policy."""

from __future__ import annotations

import pytest
import torch

from pixelis_fast.guidance import (
    Guidance,
    SeenByHead,
    ShownBoxes,
    WatchedAttention,
    attention_loss,
    both_units,
    guided_rows,
)
from pixelis_fast.head_targets import NONE, HeadTargets
from pixelis_fast.policy.batch import PackedBatch
from pixelis_fast.policy.config import PRESETS
from pixelis_fast.policy.weights import random_policy


def targets_of(*, cell: tuple[int, ...] = (1, NONE, 0)) -> HeadTargets:
    """Two trajectories of 12 rows; calls at rows 6..9, 9..10 of the first, 20..22 of the second."""
    count = len(cell)
    return HeadTargets(
        rows_R=torch.tensor([6, 9, 20][:count]),
        ends_R=torch.tensor([9, 10, 22][:count]),
        starts_R=torch.tensor([0, 0, 12][:count]),
        operations_R=torch.zeros(count, dtype=torch.long),
        cells_RC=torch.tensor([[2, 3], [NONE, NONE], [13, 14]][:count]),
        cell_R=torch.tensor(cell),
        cell_box_R4=torch.tensor(
            [[0.6, 0.2, 0.2, 0.2], [0.5, 0.5, 1, 1], [0.2, 0.2, 0.4, 0.4]][:count]
        ),
        region_R4=torch.tensor([[0.7, 0.2, 0.1, 0.1], [0.0] * 4, [0.3, 0.4, 0.0, 0.0]][:count]),
        region_known_R4=torch.tensor([[True] * 4, [False] * 4, [True, True, False, False]][:count]),
        span_R2=torch.zeros(count, 2),
        span_known_R=torch.zeros(count, dtype=torch.bool),
    )


def test_every_row_that_predicts_an_argument_is_guided():
    rows = guided_rows(targets_of())
    assert rows.rows_G.tolist() == [6, 7, 8, 20, 21]
    assert rows.starts_G.tolist() == [0, 0, 0, 12, 12]
    assert rows.wanted_G.tolist() == [3, 3, 3, 13, 13]
    assert rows.region_G4[-1].tolist() == pytest.approx([0.3, 0.4, 0.0, 0.0])
    assert rows.region_known_G4[-1].tolist() == [True, True, False, False]


def test_calls_that_point_nowhere_guide_nothing():
    targets = targets_of(cell=(NONE, NONE, NONE))
    assert guided_rows(targets) is None
    assert Guidance(head_dim=4, num_layers=4)({}, targets) is None


def test_the_loss_is_the_causal_softmax_of_the_decoder():
    torch.manual_seed(0)
    seen = SeenByHead(*(torch.randn(24, 8) for _ in range(4)))
    rows = guided_rows(targets_of())
    loss, right = attention_loss(seen, rows)
    wanted, strongest = [], []
    for row, start, target in zip(rows.rows_G, rows.starts_G, rows.wanted_G, strict=True):
        weights = (seen.keys_NF[start : row + 1] @ seen.queries_NF[row] / 8**0.5).softmax(0)
        wanted.append(-weights[target - start].log())
        strongest.append(float(weights.argmax() == target - start))
    torch.testing.assert_close(loss, torch.stack(wanted).mean())
    assert right == pytest.approx(sum(strongest) / len(strongest))


def test_a_box_is_told_in_cells_from_its_cell_and_as_shares():
    box, cell = torch.tensor([[0.7, 0.2, 0.1, 0.1]]), torch.tensor([[0.6, 0.3, 0.2, 0.4]])
    found = both_units(box, cell)[0].tolist()
    assert found == pytest.approx([0.5, -0.25, 0.5, 0.25, 0.7, 0.2, 0.1, 0.1])


@pytest.fixture(scope="module")
def small():
    policy = random_policy(PRESETS["unit"])
    batch = PackedBatch(
        input_ids_N=torch.arange(24) + 5,
        positions_3N=torch.arange(12).repeat(3, 2),
        lengths=[12, 12],
    )
    return policy, batch


def test_what_is_watched_is_what_the_decoder_used(small):
    policy, batch = small
    watched = WatchedAttention((1, 3))
    with torch.no_grad():
        plain = policy.hidden(batch)
        hidden = policy.hidden(batch, watch=watched.wrap)
    assert torch.equal(plain, hidden)
    assert sorted(watched.first) == [1, 3]
    seen = watched.first[3]
    scores = seen.queries_NF[12:] @ seen.keys_NF[12:].T / seen.queries_NF.shape[-1] ** 0.5
    causal = scores.masked_fill(torch.ones(12, 12).triu(1).bool(), -torch.inf)
    torch.testing.assert_close(causal.softmax(-1) @ seen.values_NF[12:], seen.mixed_NF[12:])


def test_the_layers_are_the_middle_two():
    assert Guidance(head_dim=4, num_layers=5).layers == (2, 3)
    assert Guidance(head_dim=4, num_layers=1).layers == (0,)


def test_a_guided_policy_looks_at_its_target_and_tells_where_it_is(small):
    policy, batch = small
    guidance = Guidance(head_dim=policy.config.text.head_dim, num_layers=4)
    targets = targets_of()
    boxes_BT4 = torch.stack((targets.region_R4[:1], torch.full((1, 4), -0.1)), dim=1)
    shown = ShownBoxes(torch.tensor([3]), boxes_BT4, targets.cell_box_R4[:1])
    moved = [*policy.parameters(), *guidance.parameters()]
    optimizer = torch.optim.Adam([p.requires_grad_() for p in moved], lr=3e-3)
    found = []
    for _ in range(60):
        watched = WatchedAttention(guidance.layers)
        policy.hidden(batch, watch=watched.wrap)
        losses = guidance(watched.first, targets, shown=shown)
        found.append(losses)
        optimizer.zero_grad()
        losses.total().backward()
        optimizer.step()
    assert found[0].on_target < 0.5
    assert found[-1].on_target == 1.0
    assert found[-1].attention.item() < 0.2 < found[0].attention.item()
    assert found[-1].region.item() < 0.2 * found[0].region.item()
