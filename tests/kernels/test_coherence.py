"""coherence against float64 autograd of the textbook form, on both paths."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelis_fast.kernels.coherence import coherence
from pixelis_fast.kernels.coherence.reference import coherence_reference
from tests.kernels.coherence_cases import (
    LENGTHS,
    PATHS,
    THRESHOLD,
    VALUES,
    WEIGHT,
    bounds_of,
    difficult_rows,
    poison_buffers,
    reference_with_gradient,
    relative_error,
)

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-6}
"""Of values: sums are float32 whatever the rows are."""
GRADIENT_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4e-3}
"""bfloat16 rounds each element by up to 2^-9."""
SHAPES = [(1, 64), (2, 1024), (63, 96), (70, 96), (129, 64), (9, 1024)]
KINDS = {"float32": (torch.float32, False), "bfloat16-weighted": (torch.bfloat16, True)}


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch):
    poison_buffers(monkeypatch)


CASES = [
    (T, D, path, kind)
    for T, D in SHAPES
    for path in PATHS
    for kind in KINDS
    # Interpreted, long shapes take a second each: one kind per shape.
    if path == "cpu" or T < 63 or (kind == "float32") == (T == 63)
]


@pytest.mark.parametrize(("T", "D", "path", "kind"), CASES)
def test_coherence(T, D, path, kind):
    dtype, weighted = KINDS[kind]
    bounds = bounds_of(LENGTHS[T], torch.int32 if weighted else torch.int64)
    rows_TD = difficult_rows(T, D, dtype, bounds).requires_grad_()
    weights_T = torch.rand(T).where(torch.rand(T) < 0.8, 0.0) if weighted else None
    scores = coherence(rows_TD, bounds, weights_T, **PATHS[path])
    gradients = [torch.randn_like(one) for one in scores]
    expected, expected_grad = reference_with_gradient(rows_TD, bounds, weights_T, gradients)
    for name, value in zip(VALUES, expected, strict=True):
        actual = getattr(scores, name)
        assert actual.dtype == torch.float32
        scale = WEIGHT if name == "reward_B" else 1.0
        assert (actual - value).abs().max() <= scale * TOLERANCE[dtype], name
    (grad_TD,) = torch.autograd.grad(scores, rows_TD, gradients)
    assert grad_TD.dtype == dtype
    assert relative_error(grad_TD, expected_grad, rows_TD) <= GRADIENT_TOLERANCE[dtype]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("used", VALUES)
def test_each_output_alone_carries_its_gradient(used, path):
    bounds = bounds_of([3, 1, 4])
    rows_TD = difficult_rows(8, 16, torch.float32, bounds).requires_grad_()
    weights_T = torch.rand(8)
    value = getattr(coherence(rows_TD, bounds, weights_T, **PATHS[path]), used)
    gradient = torch.randn_like(value)
    gradients = [
        gradient if name == used else torch.zeros(8 if name == "cosine_T" else 3) for name in VALUES
    ]
    _, expected = reference_with_gradient(rows_TD, bounds, weights_T, gradients)
    (actual,) = torch.autograd.grad(value, rows_TD, gradient)
    assert relative_error(actual, expected, rows_TD) <= 2e-5


@pytest.mark.parametrize("path", PATHS)
def test_a_repeated_step_earns_nothing_by_default(path):
    rows_TD = torch.randn(1, 64).expand(5, 64)
    scores = coherence(rows_TD, bounds_of([5]), **PATHS[path])
    assert torch.allclose(scores.cosine_T, torch.tensor([1.0, 1, 1, 1, 0]))
    assert abs(scores.reward_B.item()) < 1e-5


@pytest.mark.parametrize("path", PATHS)
def test_threshold_and_weight_are_the_callers(path):
    bounds = bounds_of([4, 5])
    rows_TD = torch.randn(9, 8) + 1.0
    options = {"repetition_threshold": 0.25, "repetition_weight": 1.5}
    expected = coherence_reference(rows_TD.double(), bounds, **options)
    actual = coherence(rows_TD, bounds, **options, **PATHS[path])
    for one, other in zip(actual, expected, strict=True):
        assert torch.allclose(one.double(), other, atol=1e-6)
    assert actual.hinge_B.max() > 0


@pytest.mark.parametrize("path", PATHS)
def test_zero_rows_and_tiny_rows_have_no_nan(path):
    rows_TD = torch.randn(6, 24)
    rows_TD[1] = 0
    rows_TD[4] = 1e-30  # its square is 0 in float32
    rows_TD.requires_grad_()
    scores = coherence(rows_TD, bounds_of([6]), **PATHS[path])
    scores.reward_B.sum().backward()
    assert (scores.cosine_T[[0, 1, 3, 4]] == 0).all()
    assert scores.cosine_T[2] != 0
    assert (rows_TD.grad[[0, 1, 4, 5]] == 0).all()
    assert rows_TD.grad[2].abs().min() > 0


@pytest.mark.parametrize("path", PATHS)
def test_size_of_a_row_does_not_matter(path):
    rows_TD = torch.randn(4, 40)
    small_TD = rows_TD * torch.tensor([1e-15, 1.0, 1e15, 1e-15])[:, None]
    expected = coherence(rows_TD, bounds_of([4]), **PATHS[path]).cosine_T
    actual = coherence(small_TD, bounds_of([4]), **PATHS[path]).cosine_T
    assert torch.allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("path", PATHS)
def test_a_nan_stays_in_its_trajectory(path):
    rows_TD = torch.randn(9, 16)
    rows_TD[4] = float("nan")
    rows_TD.requires_grad_()
    bounds = bounds_of([3, 3, 3])
    scores = coherence(rows_TD, bounds, **PATHS[path])
    scores.reward_B.sum().backward()
    assert scores.reward_B.isnan().tolist() == [False, True, False]
    assert scores.cosine_T.isnan().tolist() == [False] * 3 + [True, True] + [False] * 4
    assert rows_TD.grad.isnan().all(dim=1).tolist() == [False] * 3 + [True] * 3 + [False] * 3


@pytest.mark.parametrize("path", PATHS)
def test_a_pair_of_weight_0_is_left_out_whatever_it_holds(path):
    rows_TD = torch.randn(4, 16)
    rows_TD[3] = float("nan")
    rows_TD.requires_grad_()
    weights_T = torch.tensor([1.0, 2.0, 0.0, 5.0])
    scores = coherence(rows_TD, bounds_of([4]), weights_T, **PATHS[path])
    scores.reward_B.sum().backward()
    expected = (scores.cosine_T[0] + 2 * scores.cosine_T[1]) / 3
    assert torch.allclose(scores.mean_B[0], expected)
    assert rows_TD.grad[:3].isfinite().all()
    assert (rows_TD.grad[:3] != 0).any(dim=1).all()


@pytest.mark.parametrize("path", PATHS)
def test_without_weight_or_pair_everything_is_0(path):
    rows_TD = torch.randn(5, 8, requires_grad=True)
    weights_T = torch.tensor([0.0, 0, 1, 1, 1])  # the last of a trajectory counts for nothing
    scores = coherence(rows_TD, bounds_of([3, 0, 1, 1]), weights_T, **PATHS[path])
    (scores.reward_B.sum() + scores.mean_B.sum()).backward()
    assert not scores.reward_B.any()
    assert not scores.mean_B.any()
    assert not rows_TD.grad.any()


@pytest.mark.parametrize("path", PATHS)
def test_no_steps_and_no_trajectories(path):
    none = coherence(torch.empty(0, 8, requires_grad=True), bounds_of([]), **PATHS[path])
    assert [len(one) for one in none] == [0, 0, 0, 0]
    empty = coherence(torch.empty(0, 8), bounds_of([0, 0]), **PATHS[path])
    assert empty.reward_B.tolist() == [0.0, 0.0]


LAYOUTS = st.lists(st.integers(0, 6), min_size=1, max_size=5)


@settings(max_examples=40)
@given(lengths=LAYOUTS, groups=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_ragged_layouts_on_the_cpu(lengths, groups, seed):
    check_layout(lengths, 8 * groups, seed, "cpu")


@pytest.mark.parametrize("path", ["triton", "triton-one-launch"])
@settings(max_examples=4)
@given(lengths=LAYOUTS, seed=st.integers(0, 2**31))
def test_ragged_layouts_with_triton(path, lengths, seed):
    check_layout(lengths, 24, seed, path)


def check_layout(lengths, D, seed, path):
    torch.manual_seed(seed)
    bounds = bounds_of(lengths)
    rows_TD = difficult_rows(sum(lengths), D, torch.float32, bounds).requires_grad_()
    scores = coherence(rows_TD, bounds, **PATHS[path])
    gradients = [torch.randn_like(one) for one in scores]
    expected, expected_grad = reference_with_gradient(rows_TD, bounds, None, gradients)
    for actual, value in zip(scores, expected, strict=True):
        assert torch.allclose(actual.double(), value, atol=1e-5)
    (grad_TD,) = torch.autograd.grad(scores, rows_TD, gradients)
    if len(rows_TD):
        assert relative_error(grad_TD, expected_grad, rows_TD) <= 1e-5


def test_the_oracle_passes_gradcheck():
    rows_TD = difficult_rows(7, 8, torch.float64, bounds_of([4, 3]))
    rows_TD = (rows_TD / (rows_TD.norm(dim=1, keepdim=True) + 1e-9)).requires_grad_()
    rows_TD.data[[3, 6]] = torch.randn(2, 8, dtype=torch.float64)

    def scores(rows_TD):
        return coherence_reference(
            rows_TD,
            bounds_of([4, 3]),
            torch.rand(7, generator=torch.Generator().manual_seed(1)),
            repetition_threshold=THRESHOLD,
            repetition_weight=WEIGHT,
        )

    assert torch.autograd.gradcheck(scores, rows_TD)
