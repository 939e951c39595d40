"""The museum's second room: bugs of memory, graphs, threads and order, not of formulas.

Every exhibit runs on each implementation; "triton" on CPU tensors is the interpreter.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from pixelis_fast.kernels.linear_loss import ReferenceHead, launch, linear_statistics
from pixelis_fast.kernels.linear_loss.triton_config import SMALL
from pixelis_fast.kernels.linear_loss.triton_path import TritonPath
from pixelis_fast.kernels.masked_imitation import masked_imitation_loss
from pixelis_fast.kernels.masked_imitation.reference import masked_imitation_reference
from pixelis_fast.kernels.policy_loss import linear_policy_loss
from pixelis_fast.kernels.token_kl import token_kl
from tests.kernels import linear_problem
from tests.kernels.launches import note_launches
from tests.kernels.loss_fixtures import (
    IMPLEMENTATIONS,
    assert_same_gradients,
    gradients,
    make_heads,
)

# Far from its anchor an exponential overflows once, before it is anchored anew.
pytestmark = pytest.mark.filterwarnings(
    "ignore:overflow encountered:RuntimeWarning", "ignore:invalid value:RuntimeWarning"
)
WEIGHTS = torch.tensor([1.0, 2.0, 0.0, 8.0, 1.5])


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request):
    return request.param


def small(**options):
    return make_heads(5, **options)


def test_inputs_keep_their_bits(implementation):
    """SkyRL #2141: an autotuned epilogue that wrote in place ran several times."""
    heads = small()
    before = [tensor.detach().clone() for tensor in heads]
    reference = ReferenceHead(*heads.q)
    found = linear_statistics(
        *heads.p,
        heads.targets,
        reference=reference,
        differentiate=("logprob", "entropy", "kl"),
        implementation=implementation,
    )
    gradients(found.logprob + found.entropy + found.kl, heads.p)
    for tensor, copy in zip(heads, before, strict=True):
        assert torch.equal(tensor, copy)


# Interpreting so many rows takes a minute; of Triton's launches the next exhibit has the grids.
@pytest.mark.parametrize("implementation", ["cpu"])
def test_more_rows_than_a_grid_dimension_holds(implementation):
    """Liger-Kernel #1294: launches failed at 65,536 rows."""
    rows = 65_537
    hidden_ND = torch.zeros(rows, 8)
    hidden_ND[-1] = 1.0
    weight_VD = torch.arange(24.0).reshape(3, 8) / 24
    loss_N = masked_imitation_loss(
        hidden_ND,
        weight_VD,
        torch.zeros(rows, dtype=torch.int32),
        reduction="none",
        implementation=implementation,
    ).loss
    torch.testing.assert_close(loss_N[:-1], torch.full((rows - 1,), float(np.log(3))))
    expected = -(weight_VD.sum(1)).log_softmax(0)[0]
    torch.testing.assert_close(loss_N[-1], expected)


@pytest.mark.parametrize("differentiate", [("logprob",), ("entropy", "kl")], ids=str)
def test_grids_of_more_rows_than_a_dimension_holds(monkeypatch, differentiate):
    """Liger-Kernel #1294 on a GPU: only the first dimension of a grid goes beyond 65,535."""
    grids = {}
    note_launches(monkeypatch, lambda name, grid, _: grids.setdefault(name, []).append(grid))
    rows = 16 * 65_536 + 1  # more than that many tiles of the smallest height
    hidden_ND = torch.zeros(rows, 8, requires_grad=True)
    weight_VD = torch.zeros(3, 8, requires_grad=True)
    reference = ReferenceHead(torch.zeros(rows, 8)) if "kl" in differentiate else None
    found = linear_statistics(
        hidden_ND,
        weight_VD,
        torch.zeros(rows, dtype=torch.int64),
        reference=reference,
        differentiate=differentiate,
        implementation="triton",
    )
    gradients(sum(getattr(found, name) for name in differentiate), (hidden_ND, weight_VD))
    assert len(grids) == (6 if reference is None else 7)
    assert max(grid[0] for each in grids.values() for grid in each) == rows
    for name, each in grids.items():
        for first, *others in each:
            assert first < 2**31, name
            assert all(size <= 65_535 for size in others), name


@pytest.mark.parametrize("tma", [True, False])
@pytest.mark.parametrize("head", [None, "own"])
def test_offsets_beyond_32_bits(monkeypatch, head, tma):
    """Liger-Kernel #1294: a row's start counted in 32 bits. Rows lie 2^30 elements apart, so the
    third begins beyond 2^31; only what is touched costs memory."""

    def far_apart(self, hidden_ND, columns):
        return torch.empty_strided((3, columns), (2**30, 1)) if columns else torch.empty(3, 0)

    monkeypatch.setattr(TritonPath, "new_stored", far_apart)
    monkeypatch.setattr(launch, "tiles_for", lambda *_: replace(SMALL, tma=tma))
    names = ("logprob",) if head is None else linear_problem.PAIRED
    problem = linear_problem.random_problem(3, 24, 136, head=head, masked=0)
    upstream = torch.randn(len(names), 3)
    found = linear_problem.ours(problem, names, upstream, implementation="triton")
    expected = linear_problem.truth(problem, names, upstream)
    linear_problem.assert_close(found, expected, statistics=2e-5, gradient=1e-5)


def test_worker_threads(implementation):
    """verl patched triton's allocator because a ContextVar is empty in a new thread."""

    def work(seed):
        heads = small(seed=seed)
        loss = masked_imitation_loss(*heads.p, heads.targets, implementation=implementation).loss
        return loss, *gradients(loss, heads.p)

    expected = [work(seed) for seed in range(2)]
    # The interpreter patches triton's language module while it runs: one thread at a time there.
    with ThreadPoolExecutor(1 if implementation == "triton" else 2) as pool:
        found = list(pool.map(work, range(2)))
    for ours, truth in zip(found, expected, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(ours, truth, strict=True))


def test_float64_numbers_stay_outside(implementation):
    """Liger-Kernel #1350-#1366: double scalars widened kernels and their results."""
    heads = small()
    dtypes = set()

    def record(tensor):
        dtypes.add(tensor.dtype)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        found = masked_imitation_loss(
            *heads.p,
            heads.targets,
            WEIGHTS.double(),
            normalizer=torch.tensor(12.5, dtype=torch.float64),
            temperature=float(np.float64(0.7)),
            z_loss=np.float64(1e-3),
            implementation=implementation,
        )
    assert {value.dtype for value in found} == {torch.float32}
    assert torch.float64 not in dtypes
    assert all(grad.dtype == torch.float32 for grad in gradients(found.loss, heads.p))


def test_backward_twice(implementation):
    """In-place gradients made the second backward of a kept graph wrong."""
    heads = small()
    kl_N = token_kl(*heads.p, *heads.q, implementation=implementation)
    loss = masked_imitation_loss(*heads.p, heads.targets, implementation=implementation).loss
    first, second = (gradients(loss + kl_N.sum(), heads.p) for _ in range(2))
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


def test_a_second_derivative_is_refused(implementation):
    """A backward that differentiates to silent zeros is worse than none."""
    heads = small()
    loss = masked_imitation_loss(*heads.p, heads.targets, implementation=implementation).loss
    (grad,) = torch.autograd.grad(loss, heads.p[:1], create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(grad.sum(), heads.p)


def test_strided_and_expanded_inputs(implementation):
    """Kernels that take strides for granted read their neighbours' rows."""
    heads = small()
    row_1D = heads.hidden_p.detach()[:1].clone().requires_grad_()
    turned_DV = heads.weight_p.detach().T.contiguous().requires_grad_()
    ours = masked_imitation_loss(
        row_1D.expand(5, -1),
        turned_DV.T,
        heads.targets[:1].expand(5),
        WEIGHTS[::1].flip(0),
        implementation=implementation,
    ).loss
    expected = masked_imitation_loss(
        row_1D, heads.weight_p, heads.targets[:1], implementation=implementation
    ).loss
    torch.testing.assert_close(ours, expected)
    ours_1D, ours_DV = gradients(ours, (row_1D, turned_DV))
    expected_1D, expected_VD = gradients(expected, (row_1D, heads.weight_p))
    torch.testing.assert_close(ours_1D, expected_1D, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours_DV.T, expected_VD, rtol=1e-4, atol=1e-6)


def test_a_tied_head_is_counted_once(implementation):
    """unsloth-zoo d491423a: the gradient of lm_head came out doubled."""
    heads = small()
    truth = heads.double()

    def loss(hidden_ND, weight_VD, imitation, **options):
        return imitation(hidden_ND + weight_VD[heads.targets], weight_VD, heads.targets, **options)

    ours = loss(*heads.p, masked_imitation_loss, implementation=implementation).loss
    expected = loss(*truth.p, masked_imitation_reference)
    assert_same_gradients(ours, expected, heads.p, truth.p)


def test_a_memory_budget_of_zero(implementation):
    """unsloth #3827: a chunk size computed from no free memory divided by zero."""
    heads = small()
    assert_same_gradients(
        masked_imitation_loss(
            *heads.p, heads.targets, memory_budget_bytes=0, implementation=implementation
        ).loss,
        masked_imitation_reference(*(truth := heads.double()).p, heads.targets),
        heads.p,
        truth.p,
    )


def test_weights_that_sum_to_zero(implementation):
    """A mean over no weight is 0 / 0 in the textbook."""
    heads = small()
    found = masked_imitation_loss(
        *heads.p, heads.targets, torch.zeros(5), implementation=implementation
    )
    assert found.loss == 0
    assert all(not grad.any() for grad in gradients(found.loss, heads.p))


def test_an_empty_micro_batch_adds_nothing(implementation):
    """unsloth #3006: accumulation over a micro-batch without valid tokens made the norm NaN."""
    heads = small()
    rows = (heads.targets, torch.ones(5), torch.full((5,), -3.0))
    for valid in (True, False):
        valid_N = torch.full((5,), valid)
        found = linear_policy_loss(
            *heads.p, *rows, valid_N=valid_N, normalizer=5.0, implementation=implementation
        )
        found.loss.backward()
        if valid:
            before = [leaf.grad.clone() for leaf in heads.p]
    assert all(torch.equal(leaf.grad, kept) for leaf, kept in zip(heads.p, before, strict=True))


def test_three_runs_give_the_same_bits(implementation):
    """cut-cross-entropy's locks and verl's atomics add in the order of arrival."""

    def run():
        heads = make_heads(9, 333, 16)
        loss = masked_imitation_loss(*heads.p, heads.targets, implementation=implementation).loss
        return loss, *gradients(loss, heads.p)

    first, *others = [run() for _ in range(2 if implementation == "triton" else 3)]
    for again in others:
        assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_a_row_does_not_depend_on_its_batch(implementation):
    """Reduction trees that follow the batch size change a token's bits with its company."""
    heads = make_heads(9, 333, 16)
    together = masked_imitation_loss(
        *heads.p, heads.targets, reduction="none", implementation=implementation
    ).loss
    grad_ND = gradients(together, heads.p)[0]
    for rows in (slice(0, 1), slice(3, 8)):
        alone = masked_imitation_loss(
            heads.hidden_p[rows],
            heads.weight_p,
            heads.targets[rows],
            reduction="none",
            implementation=implementation,
        ).loss
        assert torch.equal(alone, together[rows])
        assert torch.equal(gradients(alone, heads.p)[0][rows], grad_ND[rows])
