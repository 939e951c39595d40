"""The Triton path in the interpreter: every kernel against float64, on every kind of ragged tail.

Shapes: N = tokens, D = hidden width, V = vocabulary.
"""

from dataclasses import replace

import pytest
import torch

from pixelis_fast.kernels.linear_loss import ReferenceHead, launch, linear_statistics
from pixelis_fast.kernels.linear_loss.triton_config import SMALL
from tests.kernels.linear_problem import (
    ALONE,
    PAIRED,
    LinearProblem,
    assert_close,
    ours,
    random_problem,
    relative,
    truth,
)

TRITON = {"implementation": "triton"}
PLAIN = ("logprob",)
LEAN = {"memory_budget_bytes": 0, **TRITON}


def check(problem, names, *, statistics=2e-5, gradient=1e-5, **options):
    upstream = torch.randn(len(names), problem.hidden_ND.shape[0])
    found = ours(problem, names, upstream, **{**TRITON, **options})
    assert_close(found, truth(problem, names, upstream), statistics=statistics, gradient=gradient)
    return found


@pytest.mark.parametrize(
    ("N", "D", "V", "budget"),
    [(1, 64, 333, None), (63, 96, 517, 0), (70, 64, 1000, 512 * 4 * 70), (129, 96, 641, None)],
)
def test_plain_losses_on_ragged_shapes(N, D, V, budget):
    check(random_problem(N, D, V), PLAIN, memory_budget_bytes=budget)


@pytest.mark.parametrize(
    ("N", "D", "V", "head"), [(1, 64, 1000, "own"), (63, 96, 517, "shared"), (129, 64, 641, "own")]
)
def test_pairs_on_ragged_shapes(N, D, V, head):
    check(random_problem(N, D, V, head=head), PAIRED)


@pytest.mark.parametrize("head", [None, "own", "shared"])
@pytest.mark.parametrize("budget", [None, 0])
def test_every_statistic_and_its_gradient(head, budget):
    names = ALONE if head is None else PAIRED
    check(random_problem(33, 64, 333, head=head), names, memory_budget_bytes=budget)


@pytest.mark.parametrize("name", PAIRED)
def test_each_statistic_alone(name):
    check(random_problem(9, 24, 130, head="own", temperature=0.7), (name,))


@pytest.mark.parametrize("names", [PLAIN, PAIRED])
@pytest.mark.parametrize("head", ["own", "shared"])
def test_softcap_and_temperature(head, names):
    """A softcap bends each logit, so a shared head's difference of logits is no product."""
    problem = random_problem(9, 24, 130, head=head, softcap=2.0, temperature=1.5, spread=3.0)
    check(problem, names)


@pytest.mark.parametrize("head", [None, "own"])
def test_part_stored_part_computed_again(head):
    names = PLAIN if head is None else PAIRED
    problem = random_problem(20, 32, 1100, head=head)
    size = 4 if head is None else 8
    check(problem, names, memory_budget_bytes=20 * size * 600)


@pytest.mark.parametrize("head", [None, "own", "shared"])
def test_pointers_where_there_is_no_tma(monkeypatch, head):
    monkeypatch.setattr(launch, "tiles_for", lambda *_: replace(SMALL, tma=False))
    problem = random_problem(20, 40, 333, head=head)
    names = PLAIN if head is None else PAIRED
    check(problem, names)
    check(problem, names, memory_budget_bytes=0)


@pytest.mark.parametrize(
    "tile", [replace(SMALL.statistics, rows=64, columns=64, depth=32, subtiles=1)]
)
def test_other_tiles(monkeypatch, tile):
    tiles = replace(SMALL, statistics=tile, pair_statistics=tile)
    monkeypatch.setattr(launch, "tiles_for", lambda *_: tiles)
    check(random_problem(65, 32, 130, head="own"), PAIRED)


def test_bfloat16_rows_are_exact_to_half_a_percent():
    problem = random_problem(40, 64, 333, dtype=torch.bfloat16, spread=4.0, masked=0)
    upstream = torch.randn(1, 40)
    found = ours(problem, PLAIN, upstream, **TRITON)
    expected = truth(problem, PLAIN, upstream)
    error_N = (found.dhidden_ND.double() - expected.dhidden_ND).norm(dim=1)
    assert float((error_N / expected.dhidden_ND.norm(dim=1)).max()) < 5e-3
    truncation = 2**-8  # the interpreter's casts do not round, in the gradient and on its way
    assert relative(found.dweight_VD, expected.dweight_VD) < 2 * truncation
    assert float((found.statistics.logprob - expected.statistics.logprob).abs().max()) < 2e-5


def peaked_problem(high: float, low: float) -> LinearProblem:
    """One column at `high`, the rest at `low`; the target is another than the peak."""
    hidden_ND = torch.zeros(5, 8)
    hidden_ND[:, 0] = 1
    weight_VD = torch.zeros(70, 8)
    weight_VD[:, 0] = low + 0.01 * torch.randn(70)
    weight_VD[3, 0] = high
    return LinearProblem(hidden_ND, weight_VD, torch.tensor([3, 4, 5, 3, 69]))


@pytest.mark.parametrize(
    ("high", "low"), [(60.0, -60.0), (150.0, -150.0), (-200.0, -201.0), (0.0, 0.0), (30.0, -30.0)]
)
def test_logits_far_from_the_target(high, low):
    """Anchors 120 and 300 nats below the peak overflow once and are moved."""
    problem = peaked_problem(high, low)
    check(problem, PLAIN, statistics=1e-4, gradient=5e-4)  # weights of 200 cancel to 0.1
    check(problem, ALONE, statistics=1e-4, gradient=1e-4)
    other = ReferenceHead(problem.hidden_ND.clone(), -problem.weight_VD)
    check(replace(problem, reference=other), PAIRED, statistics=2e-4, gradient=1e-4)


@pytest.mark.parametrize("margin", [5.0, 10.0, 16.0, 30.0])
def test_confident_targets_keep_their_digits(margin):
    """nll = log1p(rest): lse - logit would be wrong in every digit beyond 16 nats."""
    problem = peaked_problem(margin, 0.0)
    problem.targets_N = torch.full((5,), 3)
    upstream = torch.ones(1, 5)
    found, expected = ours(problem, PLAIN, upstream, **TRITON), truth(problem, PLAIN, upstream)
    others_V = problem.weight_VD[torch.arange(70) != 3, 0].double() - margin
    logprob = -others_V.exp().sum().log1p()  # float64's log_softmax cancels at 30 nats
    assert relative(found.statistics.logprob.detach(), logprob.expand(5)) < 2e-6
    assert relative(found.dhidden_ND, expected.dhidden_ND) < 1e-4
    assert bool((found.statistics.logprob <= 0).all())


@pytest.mark.parametrize("head", ["own", "shared"])
@pytest.mark.parametrize("drift", [1e-3, 1e-2, 1e-1, 1.0])
def test_small_divergences(head, drift):
    problem = random_problem(16, 32, 333, head="shared", drift=drift, spread=3.0, masked=0)
    assert problem.reference is not None
    if head == "own":
        problem.reference = ReferenceHead(problem.reference.hidden_NE, problem.weight_VD.clone())
    upstream = torch.rand(1, 16)
    found, expected = ours(problem, ("kl",), upstream, **TRITON), truth(problem, ("kl",), upstream)
    assert relative(found.statistics.kl.detach(), expected.statistics.kl) < 1e-3
    assert relative(found.dhidden_ND, expected.dhidden_ND) < 5e-3
    assert bool((found.statistics.kl >= 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shared", [True, False])
def test_no_divergence_from_itself(dtype, shared):
    problem = random_problem(9, 24, 333, dtype=dtype, spread=5.0)
    weight_VD = None if shared else problem.weight_VD.clone()
    problem.reference = ReferenceHead(problem.hidden_ND.clone(), weight_VD)
    found = ours(problem, ("kl",), torch.ones(1, 9), **TRITON)
    assert bool((found.statistics.kl == 0).all())
    assert bool((found.statistics.log_ratio == 0).all())
    assert bool((found.dhidden_ND == 0).all())
    assert bool((found.dweight_VD == 0).all())


@pytest.mark.parametrize("kept", [[], [4], list(range(9))])
def test_masks_of_no_row_one_row_and_all_rows(kept):
    problem = random_problem(9, 24, 130, head="own")
    problem.valid_N = torch.zeros(9, dtype=torch.bool)
    problem.valid_N[kept] = True
    for options in (TRITON, LEAN):
        check(problem, PLAIN, **options)
        check(problem, PAIRED, **options)


def test_what_stands_in_masked_rows_does_not_spread():
    problem = random_problem(9, 24, 130, head="own", masked=0)
    problem.valid_N = torch.arange(9) % 2 == 0
    upstream = torch.randn(len(PAIRED), 9)
    clean = ours(problem, PAIRED, upstream, **TRITON)
    problem.hidden_ND[1::2] = float("nan")
    problem.reference.hidden_NE[1::2] = float("inf")
    problem.targets_N[1::2] = -100
    upstream[:, 1::2] = float("nan")
    dirty = ours(problem, PAIRED, upstream, **TRITON)
    assert torch.equal(torch.stack(clean.statistics), torch.stack(dirty.statistics))
    assert torch.equal(clean.dhidden_ND, dirty.dhidden_ND)
    assert torch.equal(clean.dweight_VD, dirty.dweight_VD)


@pytest.mark.parametrize("budget", [None, 0])
def test_every_element_read_was_written(monkeypatch, budget):
    """Buffers start as NaN; one read before it is written would show."""
    empty, new_empty, empty_like = torch.empty, torch.Tensor.new_empty, torch.empty_like

    def poisoned(make):
        def allocate(*args, **kwargs):
            made = make(*args, **kwargs)
            return made.fill_(float("nan")) if made.is_floating_point() else made

        return allocate

    problem, upstream = random_problem(35, 24, 333, head="own"), torch.randn(len(PAIRED), 35)
    plain = random_problem(35, 24, 333)
    monkeypatch.setattr(torch, "empty", poisoned(empty))
    monkeypatch.setattr(torch, "empty_like", poisoned(empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned(new_empty))
    found = ours(problem, PAIRED, upstream, memory_budget_bytes=budget, **TRITON)
    other = ours(plain, PLAIN, upstream[:1], memory_budget_bytes=budget, **TRITON)
    monkeypatch.undo()
    assert_close(found, truth(problem, PAIRED, upstream), statistics=2e-5, gradient=1e-5)
    assert_close(other, truth(plain, PLAIN, upstream[:1]), statistics=2e-5, gradient=1e-5)


def test_nan_logits_are_seen():
    problem = random_problem(5, 24, 130, head="own", masked=0)
    problem.hidden_ND[2, 3] = float("nan")
    found = torch.stack(problem.statistics(names=(), **TRITON))
    assert bool(found[[0, 1, 2, 4, 5, 6], 2].isnan().all())
    assert not bool(found[:, [0, 1, 3, 4]].isnan().any())


def test_rows_do_not_know_their_batch():
    problem = random_problem(70, 32, 333, head="own", masked=0)
    together = torch.stack(problem.statistics(names=(), **TRITON))
    again = torch.stack(problem.statistics(names=(), **TRITON))
    assert torch.equal(together, again)
    for rows in (slice(3, 4), slice(5, 41)):
        hidden_NE, weight_VE = problem.reference
        part = replace(
            problem,
            hidden_ND=problem.hidden_ND[rows],
            targets_N=problem.targets_N[rows],
            reference=ReferenceHead(hidden_NE[rows], weight_VE),
        )
        alone = torch.stack(part.statistics(names=(), **TRITON))
        assert torch.equal(together[:, rows], alone)


@pytest.mark.parametrize("names", [PLAIN, PAIRED])
def test_backward_twice_gives_the_same_bits(names):
    problem = random_problem(20, 24, 130, head="own")
    hidden_ND = problem.hidden_ND.requires_grad_()
    found = problem.statistics(names=names, **TRITON)
    total = sum(getattr(found, name).sum() for name in names)
    (first,) = torch.autograd.grad(total, hidden_ND, retain_graph=True)
    (second,) = torch.autograd.grad(total, hidden_ND)
    assert torch.equal(first, second)


def test_no_tokens():
    found = ours(random_problem(0, 24, 130, masked=0), PLAIN, torch.ones(1, 0), **TRITON)
    assert found.statistics.logprob.shape == (0,)
    assert bool((found.dweight_VD == 0).all())


def test_one_vocabulary_entry():
    found = linear_statistics(torch.randn(3, 8), torch.randn(1, 8), torch.zeros(3).long(), **TRITON)
    assert bool((found.logprob == 0).all())
    assert bool((found.entropy == 0).all())
