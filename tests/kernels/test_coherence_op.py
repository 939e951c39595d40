"""coherence as a torch operator: compiled, checked by opcheck, strided inputs, bad inputs."""

import re

import pytest
import torch

from pixelis_fast.kernels import triton_support
from pixelis_fast.kernels.coherence import coherence, pooled_coherence
from pixelis_fast.kernels.coherence.pool_op import segment_mean, segment_mean_backward
from pixelis_fast.kernels.coherence.steps_op import coherence_backward, coherence_forward
from tests.kernels.coherence_cases import bounds_of

TWO_PATHS = ["cpu", "triton"]


def reward_and_gradient(call, rows, *arguments, **options):
    rows = rows.detach().clone().requires_grad_()
    reward_B = call(rows, *arguments, **options).reward_B
    reward_B.sum().backward()
    return reward_B.detach(), rows.grad


@pytest.mark.parametrize(("path", "dtype"), [("cpu", torch.bfloat16), ("triton", torch.float32)])
def test_opcheck(path, dtype):
    rows_TD = torch.randn(6, 16).to(dtype).requires_grad_()
    bounds, weights_T = bounds_of([4, 2]), torch.rand(6)
    for weights, max_steps in ((None, None), (weights_T, 4)):
        arguments = (rows_TD, bounds, weights, 0.9, 10.0, max_steps, path, 1)
        torch.library.opcheck(coherence_forward, arguments)
    *_, cosine_T, rnorm_T, owner_T, scale_B = coherence_forward(*arguments)
    saved = (cosine_T.detach(), rnorm_T, owner_T, scale_B)
    gradients = (torch.rand(2), None, None, torch.rand(6))
    arguments = (rows_TD.detach(), weights_T, *saved, *gradients, 0.9, 10.0, path, 1)
    torch.library.opcheck(coherence_backward, arguments)
    offsets = torch.tensor([1, 4, 6])
    torch.library.opcheck(segment_mean, (rows_TD, offsets, path, 1))
    torch.library.opcheck(segment_mean_backward, (torch.randn(2, 16), offsets, 6, dtype, path, 1))


@pytest.mark.parametrize("path", TWO_PATHS)
def test_compiles_to_one_graph(path):
    torch._dynamo.reset()

    def loss(hidden_ND, offsets, bounds, weights_T):
        scores = pooled_coherence(hidden_ND, offsets, bounds, weights_T, implementation=path)
        return scores.reward_B.sum() + scores.cosine_T.square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for lengths in ([3, 1, 4, 2], [2, 2, 5, 0, 3, 1]):
        hidden_ND = torch.randn(sum(lengths), 16, requires_grad=True)
        weights_T, bounds = torch.rand(len(lengths)), bounds_of([2, len(lengths) - 2])
        arguments = (hidden_ND, bounds_of(lengths), bounds, weights_T)
        expected = loss(*arguments)
        (expected_grad,) = torch.autograd.grad(expected, hidden_ND)
        actual = compiled(*arguments)
        (actual_grad,) = torch.autograd.grad(actual, hidden_ND)
        assert torch.equal(actual, expected)
        assert torch.equal(actual_grad, expected_grad)


LAYOUTS = {
    "band": lambda: torch.randn(5, 48)[:, 8:32],
    "every-other-row": lambda: torch.randn(10, 24)[::2],
    "columns": lambda: torch.randn(24, 5).t(),
    "expanded": lambda: torch.randn(1, 24).expand(5, 24),
}


@pytest.mark.parametrize("path", TWO_PATHS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_apart_and_rows_on_top_of_each_other(layout, path):
    rows_TD, bounds = LAYOUTS[layout](), bounds_of([3, 2])
    packed_TD = rows_TD.contiguous().requires_grad_()
    rows_TD = rows_TD.detach().requires_grad_()
    expected = coherence(packed_TD, bounds, implementation=path)
    actual = coherence(rows_TD, bounds, implementation=path)
    assert torch.equal(actual.cosine_T, expected.cosine_T)
    (expected_grad,) = torch.autograd.grad(expected.reward_B.sum(), packed_TD)
    (actual_grad,) = torch.autograd.grad(actual.reward_B.sum(), rows_TD)
    assert torch.equal(actual_grad, expected_grad)
    pooled, same = (
        pooled_coherence(one, bounds, bounds_of([2]), implementation=path)
        for one in (rows_TD, packed_TD)
    )
    assert torch.equal(pooled.steps_TD, same.steps_TD)


@pytest.mark.parametrize("path", TWO_PATHS)
def test_strided_bounds_weights_and_upstream_gradients(path):
    rows_TD = torch.randn(6, 16, requires_grad=True)
    bounds = torch.tensor([[0, 9], [4, 9], [6, 9]])[:, 0]
    weights_T = torch.rand(6, 2)[:, 1]
    scores = coherence(rows_TD, bounds, weights_T, implementation=path)
    (actual,) = torch.autograd.grad(
        (scores.reward_B, scores.cosine_T), rows_TD, (torch.ones(1).expand(2), torch.ones(12)[::2])
    )
    again = coherence(rows_TD, bounds.contiguous(), weights_T.contiguous(), implementation=path)
    (expected,) = torch.autograd.grad(again.reward_B.sum() + again.cosine_T.sum(), rows_TD)
    assert torch.allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("path", TWO_PATHS)
def test_autocast_changes_nothing(path):
    rows_TD, bounds = torch.randn(5, 16), bounds_of([5])
    expected = reward_and_gradient(coherence, rows_TD, bounds, implementation=path)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = reward_and_gradient(coherence, rows_TD, bounds, implementation=path)
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])


@pytest.mark.parametrize("path", TWO_PATHS)
def test_without_grad_nothing_is_recorded(path):
    rows_TD, bounds = torch.randn(5, 16), bounds_of([5])
    assert not coherence(rows_TD, bounds, implementation=path).reward_B.requires_grad
    with torch.no_grad():
        scores = coherence(rows_TD.requires_grad_(), bounds, implementation=path)
    assert not any(one.requires_grad for one in scores)


def test_backward_twice_needs_retain_graph_and_adds_up():
    rows_TD = torch.randn(5, 16, requires_grad=True)
    reward = coherence(rows_TD, bounds_of([5])).reward_B.sum()
    reward.backward(retain_graph=True)
    once = rows_TD.grad.clone()
    reward.backward()
    assert torch.equal(rows_TD.grad, once * 2)


def test_a_second_derivative_is_refused():
    rows_TD = torch.randn(5, 16, requires_grad=True)
    reward = coherence(rows_TD, bounds_of([5])).reward_B.sum()
    (grad_TD,) = torch.autograd.grad(reward, rows_TD, create_graph=True)
    with pytest.raises(RuntimeError):
        grad_TD.sum().backward()


GOOD = {"steps_TD": torch.ones(4, 8), "cu_seqlens_B1": torch.tensor([0, 1, 4])}
BAD = [
    ({"steps_TD": [[1.0] * 8]}, "steps_TD: expected a tensor, got list"),
    ({"steps_TD": torch.ones(4)}, "steps_TD: expected 2 dimensions, got shape (4,)"),
    ({"steps_TD": torch.ones(4, 8).half()}, "dtype float32 or bfloat16, got torch.float16"),
    ({"steps_TD": torch.ones(4, 12)}, "a multiple of 8 columns up to 16384, got 12"),
    ({"steps_TD": torch.ones(4, 0)}, "a multiple of 8 columns up to 16384, got 0"),
    ({"cu_seqlens_B1": [0, 4]}, "cu_seqlens_B1: expected a tensor, got list"),
    ({"cu_seqlens_B1": torch.tensor(4)}, "cu_seqlens_B1: expected 1 dimension"),
    (
        {"cu_seqlens_B1": torch.tensor([0.0, 4.0])},
        "expected dtype int32 or int64, got torch.float32",
    ),
    ({"cu_seqlens_B1": torch.tensor([0])}, "at least one trajectory for the steps, got none"),
    ({"cu_seqlens_B1": torch.tensor([1, 4])}, "a first value of 0 and a last of 4, got 1, 4"),
    ({"cu_seqlens_B1": torch.tensor([0, 3])}, "a first value of 0 and a last of 4, got 0, 3"),
    (
        {"cu_seqlens_B1": torch.tensor([0, 3, 2, 4])},
        "values that never fall, got a fall at index 2",
    ),
    ({"pair_weights_T": torch.ones(3)}, "pair_weights_T: expected shape (4,), got shape (3,)"),
    ({"pair_weights_T": torch.ones(4).double()}, "pair_weights_T: expected dtype float32"),
    ({"pair_weights_T": torch.ones(4, requires_grad=True)}, "expected constants, got weights that"),
    ({"pair_weights_T": -torch.ones(4)}, "finite weights of at least 0, got others"),
    ({"pair_weights_T": torch.ones(4) * float("nan")}, "finite weights of at least 0, got others"),
    ({"repetition_threshold": float("nan")}, "repetition_threshold: expected a finite number"),
    (
        {"repetition_weight": -1.0},
        "repetition_weight: expected a finite number of at least 0, got -1.0",
    ),
    ({"max_steps": 2}, "max_steps: expected at least 3, the longest trajectory, got 2"),
    ({"max_steps": 0}, "max_steps: expected a whole number of at least 1, got 0"),
    ({"implementation": "cuda"}, "implementation: expected one of auto, triton, cpu, got 'cuda'"),
    ({"threads": 0}, "threads: expected a whole number of at least 1, got 0"),
    ({"threads": 2, "implementation": "triton"}, "threads: expected 1 outside the CPU path, got 2"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=lambda value: None)
def test_bad_input(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        coherence(**GOOD | changes)


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        (torch.tensor([-1, 4]), "step_offsets_T1: expected values from 0 to 4, got -1 to 4"),
        (torch.tensor([0, 5]), "step_offsets_T1: expected values from 0 to 4, got 0 to 5"),
        (torch.tensor([0, 3, 2]), "step_offsets_T1: expected values that never fall"),
        (torch.tensor([[0, 4]]), "step_offsets_T1: expected 1 dimension"),
    ],
)
def test_bad_offsets(offsets, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        pooled_coherence(torch.ones(4, 8), offsets, torch.tensor([0, 1]))


def test_triton_on_the_cpu_needs_the_interpreter(monkeypatch):
    monkeypatch.setattr(triton_support, "INTERPRETED", False)
    with pytest.raises(ValueError, match="tensors on a GPU, or TRITON_INTERPRET=1"):
        coherence(**GOOD, implementation="triton")
