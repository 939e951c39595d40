"""pooled_coherence against float64 autograd: token hidden states in, rewards and steps out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelis_fast.kernels.coherence import coherence, pooled_coherence
from pixelis_fast.kernels.coherence.reference import coherence_reference, segment_mean_reference
from tests.kernels.coherence_cases import (
    PATHS,
    THRESHOLD,
    WEIGHT,
    bounds_of,
    poison_buffers,
    relative_error,
)

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-6}
GRADIENT_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4e-3}
LAYOUTS = {
    "one-token": ([1], [1]),
    "ragged": ([3, 0, 40, 1, 33, 0, 0, 70, 2], [4, 0, 1, 4]),
    "no-steps": ([], [0, 0]),
}


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch):
    poison_buffers(monkeypatch)


def reference(hidden_ND, offsets, bounds, weights_T):
    """-> reward, mean, hinge, cosine, steps."""
    steps_TD = segment_mean_reference(hidden_ND, offsets)
    options = {"repetition_threshold": THRESHOLD, "repetition_weight": WEIGHT}
    return *coherence_reference(steps_TD, bounds, weights_T, **options), steps_TD


def compare(hidden_ND, offsets, bounds, weights_T, path):
    dtype = hidden_ND.dtype
    exact_ND = hidden_ND.double().requires_grad_()
    hidden_ND = hidden_ND.clone().requires_grad_()
    scores = pooled_coherence(hidden_ND, offsets, bounds, weights_T, **PATHS[path])
    expected = reference(exact_ND, offsets, bounds, weights_T)
    for name, value in zip(scores._fields, expected, strict=True):
        actual = getattr(scores, name)
        assert actual.dtype == torch.float32
        assert torch.allclose(actual.double(), value, atol=WEIGHT * TOLERANCE[dtype]), name
    gradients = [torch.randn_like(one) for one in scores]
    (grad_ND,) = torch.autograd.grad(scores, hidden_ND, gradients)
    assert grad_ND.dtype == dtype
    # The steps always carry a gradient; without a pair the textbook's scores are plain zeros.
    total = sum((one * other).sum() for one, other in zip(expected, gradients, strict=True))
    (expected_grad,) = torch.autograd.grad(total, exact_ND)
    ones = torch.ones(len(exact_ND), 1)
    assert relative_error(grad_ND, expected_grad, ones) <= GRADIENT_TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pooled_coherence(layout, path, dtype):
    lengths, trajectories = LAYOUTS[layout]
    offsets, bounds = bounds_of(lengths, torch.int32), bounds_of(trajectories)
    hidden_ND = (torch.randn(sum(lengths), 136) + 0.5).to(dtype)
    weights_T = torch.rand(len(lengths))
    if layout == "no-steps":
        scores = pooled_coherence(hidden_ND, offsets, bounds, weights_T, **PATHS[path])
        assert scores.reward_B.tolist() == [0.0, 0.0]
        assert scores.steps_TD.shape == (0, 136)
    else:
        compare(hidden_ND, offsets, bounds, weights_T, path)


@pytest.mark.parametrize("path", PATHS)
def test_tokens_outside_every_step_are_read_by_none(path):
    hidden_ND = torch.randn(30, 16)
    hidden_ND[:4] = float("nan")
    hidden_ND[25:] = float("nan")
    hidden_ND.requires_grad_()
    offsets = torch.tensor([4, 10, 10, 25])
    scores = pooled_coherence(hidden_ND, offsets, bounds_of([1, 2]), **PATHS[path])
    (scores.reward_B.sum() + scores.steps_TD.sum()).backward()
    assert scores.steps_TD.isfinite().all()
    assert (scores.steps_TD[1] == 0).all()
    assert (hidden_ND.grad[:4] == 0).all()
    assert (hidden_ND.grad[25:] == 0).all()
    assert (hidden_ND.grad[4:25] != 0).all()


@pytest.mark.parametrize("path", PATHS)
def test_no_steps_at_all_leaves_a_zero_gradient(path):
    hidden_ND = torch.randn(3, 8, requires_grad=True)
    scores = pooled_coherence(hidden_ND, torch.tensor([1]), bounds_of([]), **PATHS[path])
    scores.steps_TD.sum().backward()
    assert (hidden_ND.grad == 0).all()


@settings(max_examples=20)
@given(
    lengths=st.lists(st.integers(0, 20), min_size=1, max_size=8).filter(any),
    cut=st.integers(0, 8),
    seed=st.integers(0, 2**31),
)
def test_ragged_tokens_on_the_cpu(lengths, cut, seed):
    torch.manual_seed(seed)
    cut = min(cut, len(lengths))
    bounds = bounds_of([cut, len(lengths) - cut])
    hidden_ND = torch.randn(sum(lengths), 40)
    compare(hidden_ND, bounds_of(lengths), bounds, None, "cpu")


@pytest.mark.parametrize("path", ["cpu", "triton"])
def test_is_the_mean_and_then_coherence(path):
    hidden_ND, offsets = torch.randn(64, 32).bfloat16(), bounds_of([9, 30, 25])
    pooled = pooled_coherence(hidden_ND, offsets, bounds_of([3]), implementation=path)
    scores = coherence(pooled.steps_TD, bounds_of([3]), implementation=path)
    assert all(torch.equal(a, b) for a, b in zip(pooled[:4], scores, strict=True))


@pytest.mark.parametrize("path", ["cpu", "triton"])
def test_a_step_does_not_feel_its_batch(path):
    hidden_ND, offsets = torch.randn(120, 24), bounds_of([9, 70, 41])
    all_TD = pooled_coherence(hidden_ND, offsets, bounds_of([3]), implementation=path).steps_TD
    alone, one = hidden_ND[9:79], bounds_of([1])
    only_TD = pooled_coherence(alone, bounds_of([70]), one, implementation=path).steps_TD
    assert torch.equal(all_TD[1:2], only_TD)
