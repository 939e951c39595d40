"""coherence gives the same bits again: repeated, in another batch, with threads, at every level."""

from itertools import pairwise

import pytest
import torch

from pixelis_fast.kernels import _cpu
from pixelis_fast.kernels.coherence import coherence, cpu_path, pooled_coherence
from tests.kernels.coherence_cases import PATHS, bounds_of

LENGTHS = [5, 1, 9, 4]


def scores_and_gradient(rows_TD, bounds, **options):
    rows_TD = rows_TD.detach().clone().requires_grad_()
    scores = coherence(rows_TD, bounds, **options)
    (scores.reward_B.sum() + scores.cosine_T.square().sum()).backward()
    return [*(one.detach() for one in scores), rows_TD.grad]


def assert_same_bits(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("path", PATHS)
def test_repeats_bit_for_bit(path):
    rows_TD = torch.randn(19, 104)
    first = scores_and_gradient(rows_TD, bounds_of(LENGTHS), **PATHS[path])
    assert_same_bits(scores_and_gradient(rows_TD, bounds_of(LENGTHS), **PATHS[path]), first)


@pytest.mark.parametrize("path", PATHS)
def test_a_trajectory_does_not_feel_its_batch(path):
    rows_TD = torch.randn(19, 104).to(torch.float32 if path == "triton" else torch.bfloat16)
    bounds = bounds_of(LENGTHS)
    *_, cosine_T, grad_TD = scores_and_gradient(rows_TD, bounds, **PATHS[path])
    reward_B = coherence(rows_TD, bounds, **PATHS[path]).reward_B
    for b, (start, end) in enumerate(pairwise(bounds.tolist())):
        alone = scores_and_gradient(rows_TD[start:end], bounds_of([end - start]), **PATHS[path])
        assert torch.equal(alone[0], reward_B[b : b + 1])
        assert torch.equal(alone[3], cosine_T[start:end])
        assert torch.equal(alone[4], grad_TD[start:end])


@pytest.mark.parametrize("threads", [2, 3, 64])
def test_threads_change_no_bit(threads):
    rows_TD = torch.randn(19, 72)
    one = scores_and_gradient(rows_TD, bounds_of(LENGTHS))
    assert_same_bits(scores_and_gradient(rows_TD, bounds_of(LENGTHS), threads=threads), one)
    hidden_ND, offsets = torch.randn(50, 72), bounds_of([2, 0, 17, 30])
    first = pooled_coherence(hidden_ND, offsets, bounds_of([3, 1]))
    again = pooled_coherence(hidden_ND, offsets, bounds_of([3, 1]), threads=threads)
    assert_same_bits(again, first)


@pytest.mark.parametrize("level", _cpu.simd_levels()[1:])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("D", [8, 24, 32, 104, 4096])
def test_levels_agree_bit_for_bit(D, dtype, level):
    rows_TD = torch.randn(19, D).to(dtype)
    rows_TD[7, 3] = float("nan")
    rows_TD[12, 3] = float("inf")
    bounds, weights_T = bounds_of(LENGTHS), torch.rand(19)

    def outputs(simd):
        forward = cpu_path.coherence_forward(
            rows_TD, bounds, weights_T, 0.9, 10.0, threads=1, simd=simd
        )
        reward, mean, hinge, cosine, *saved = forward
        grads = (torch.ones_like(reward), None, torch.ones_like(hinge), torch.ones_like(cosine))
        grad_TD = cpu_path.coherence_backward(
            rows_TD, weights_T, (cosine, *saved), grads, 0.9, 10.0, threads=1, simd=simd
        )
        steps_TD = cpu_path.segment_mean_forward(rows_TD, bounds, threads=1, simd=simd)
        grad_ND = cpu_path.segment_mean_backward(
            steps_TD, bounds, len(rows_TD), dtype, threads=1, simd=simd
        )
        return [*forward, mean, grad_TD, steps_TD, grad_ND]

    for one, other in zip(outputs(level), outputs("baseline"), strict=True):
        assert torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))
        assert torch.equal(one.isnan(), other.isnan())


@pytest.mark.parametrize("path", ["cpu", "triton"])
def test_an_infinite_gradient_rounds_to_infinity(path):
    grad_TD = torch.tensor([[1e38, float("inf"), float("nan"), 3.3e38, 1.0, -1.0, 0.0, 2.0**-130]])
    hidden_ND = torch.zeros(1, 8, dtype=torch.bfloat16, requires_grad=True)
    bounds = bounds_of([1])
    steps_TD = pooled_coherence(hidden_ND, bounds, bounds, implementation=path).steps_TD
    steps_TD.backward(grad_TD)
    expected = grad_TD.to(torch.bfloat16)
    assert torch.equal(hidden_ND.grad.nan_to_num(7.0), expected.nan_to_num(7.0))
