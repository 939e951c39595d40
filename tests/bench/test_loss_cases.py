"""Points, their useful work, and inputs that are what their regime says."""

import itertools

import pytest
import torch

from bench.loss_cases import LOSS_OPS, MODES, OPS, Point, Scene, Shape, points, useful_work
from bench.loss_inputs import IGNORED, RATIO_STEP, TRAJECTORY, make_inputs, make_scene
from bench.loss_truth import HeadTruth

SMALL = Shape(40, 64, 777)


def scene(op: str = "masked_imitation", regime: str = "peaked", dtype: str = "fp32") -> Scene:
    return Scene(op, dtype, SMALL, regime)


@pytest.mark.parametrize("quick", [True, False], ids=["quick", "whole"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("op", OPS)
def test_points_have_names_of_their_own(op, device, quick):
    found = points(op, device=device, quick=quick, shape=None)
    assert len({point.name for point in found}) == len(found) > 0
    assert found[0].primary
    assert found[0].mask == 0


def test_a_gpu_meets_every_regime_and_mask_with_every_provider():
    found = points("masked_imitation", device="cuda", quick=False, shape=None)
    assert {point.scene.regime for point in found} == {"uniform", "peaked", "saturated"}
    assert {point.mask for point in found} == {0, 0.4, 0.7, 0.9}
    assert all(point.primary for point in found)
    assert {point.scene.shape for point in found} == {(8192, 4096, 151_936)}


@pytest.mark.parametrize("op", OPS)
def test_a_given_shape_replaces_all_others(op):
    found = points(op, device="cpu", quick=False, shape=SMALL)
    assert {point.scene.shape.tokens for point in found} == {SMALL.tokens}
    assert {point.scene.shape.width for point in found} == {SMALL.width}


def test_useful_work_counts_valid_rows():
    product = 2 * 24 * 64 * 777
    masked = Point(scene(), 0.4)
    assert masked.valid_tokens == 24
    assert [useful_work(masked, mode).flops / product for mode in MODES] == [1, 2, 3]
    kl = Point(scene("token_kl"), 0.4)
    assert [useful_work(kl, mode).flops / product for mode in MODES] == [2, 2, 4]


def test_useful_work_of_coherence_reads_and_writes_each_row_once():
    point = Point(Scene("coherence", "bf16", Shape(100, 64, 1), "walk"))
    moved = [useful_work(point, mode).bytes for mode in MODES]
    assert moved == [100 * 64 * 2, 2 * 100 * 64 * 2, 2 * 100 * 64 * 2]


def test_pooled_work_reads_tokens_once():
    point = Point(Scene("pooled_coherence", "bf16", Shape(100, 64, 1), "walk"))
    moved = [useful_work(point, mode).bytes for mode in MODES]
    assert moved == [100 * 64 * 2, 100 * 64 * 2, 2 * 100 * 64 * 2]


@pytest.mark.parametrize("op", ["token_kl", "policy_loss"])
def test_scenes_repeat(op):
    first, second = (make_scene(scene(op), device="cpu") for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("mask", [0.0, 0.4, 0.9], ids=str)
def test_masks_leave_their_share(mask):
    inputs = make_inputs(Point(scene(), mask), make_scene(scene(), device="cpu"))
    valid_N, targets_N = inputs.rest["valid"], inputs.rest["targets"]
    assert int(valid_N.sum()) == inputs.point.valid_tokens
    assert torch.equal(targets_N == IGNORED, ~valid_N)
    assert all(leaf.requires_grad and leaf.is_leaf for leaf in inputs.leaves)


def test_regimes_differ_as_they_say():
    entropies, targets = [], []
    for regime in ("uniform", "peaked", "saturated"):
        truth = HeadTruth(make_scene(scene(regime=regime), device="cpu"))
        entropies.append(float(truth.entropy_N1.mean()))
        targets.append(float((-truth.nll_N1).exp().max()))
    uniform, peaked, saturated = entropies
    assert uniform > 6 > 3 > peaked > saturated
    assert targets[0] < 0.1
    assert targets[2] > 1 - 1e-6


def test_references_stay_near_their_policy():
    for regime in ("uniform", "peaked"):
        kl = float(HeadTruth(make_scene(scene("token_kl", regime), device="cpu")).kl_N1.mean())
        assert 1e-4 < kl < 0.1, regime


def test_ratios_of_a_rollout_are_free_or_far_past_the_clip():
    tensors = make_scene(scene("policy_loss"), device="cpu")
    logp_NV = (tensors["hidden"].float() @ tensors["weight"].float().T).log_softmax(-1)
    logprob_N = logp_NV.gather(1, tensors["targets"][:, None])[:, 0]
    moved_N = (logprob_N - tensors["behaviour"]) / RATIO_STEP
    assert set(moved_N.round().tolist()) == {-1.0, 0.0, 1.0}
    torch.testing.assert_close(moved_N, moved_N.round(), atol=1e-4, rtol=0)


def test_trajectories_cover_all_steps():
    walk = Scene("coherence", "bf16", Shape(3 * TRAJECTORY + 5, 64, 1), "walk")
    bounds = make_scene(walk, device="cpu")["bounds"].tolist()
    assert (bounds[0], bounds[-1]) == (0, walk.shape.tokens)
    assert all(0 < b - a <= TRAJECTORY for a, b in itertools.pairwise(bounds))


def test_loss_ops_come_first():
    assert OPS[: len(LOSS_OPS)] == LOSS_OPS
