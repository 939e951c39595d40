"""The CPU path of linear_statistics against float64, at every instruction set this CPU has."""

import math
from pathlib import Path

import pytest
import torch

from pixelis_fast.kernels import _cpu
from pixelis_fast.kernels.linear_loss import ReferenceHead, linear_statistics, op
from pixelis_fast.kernels.linear_loss.cpu_path import CpuPath
from pixelis_fast.kernels.linear_loss.reference import reference_statistics

LEVELS = _cpu.linear_levels()
BEST = LEVELS[-1]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Per row, relative to the row's gradient in float64 on the same inputs.
GRADIENT_TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 5e-3}
# Relative to the largest logit: float32 products are off by some units in its last place.
LOGIT_TOLERANCE = 1e-6
POLICY_NAMES = ("logprob", "lse", "entropy", "mean_logit")
ALL_NAMES = (*POLICY_NAMES, "kl", "log_ratio")
# N, V, D: one of everything, ragged tails, several slices of the vocabulary, several token blocks.
SHAPES = [(1, 1, 8), (1, 333, 64), (63, 517, 96), (33, 4500, 16), (530, 300, 8), (70, 128, 32)]
STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")


@pytest.fixture
def run_at(monkeypatch):
    def set_level(level):
        monkeypatch.setattr(op, "open_path", lambda implementation: CpuPath(simd=level))

    return set_level


def make_head(num_tokens, vocabulary, width, dtype, *, spread=2.0):
    hidden = torch.randn(num_tokens, width).to(dtype).requires_grad_()
    weight = (torch.randn(vocabulary, width) * spread / width**0.5).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(vocabulary, (num_tokens,))


def make_reference(hidden, weight, *, drift):
    moved = hidden.detach() + drift * torch.randn(hidden.shape)
    return ReferenceHead(moved.to(hidden.dtype), weight.detach())


def truth(hidden, weight, targets, reference=None, **options):
    """Statistics in float64 with the leaves their gradients arrive at."""
    leaves = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    wide = ReferenceHead(*(t.double() for t in reference)) if reference else None
    return reference_statistics(*leaves, targets, reference=wide, **options), leaves


def weighted_sum(statistics, upstream):
    return sum((getattr(statistics, name) * grad).sum() for name, grad in upstream.items())


def row_error(found, expected, floor):
    """Largest error of a row, relative to its size or to `floor` times the rows' mean square."""
    size = expected.norm(dim=-1)
    least = floor * size.square().mean().sqrt() + 1e-30
    return float(((found.double() - expected).norm(dim=-1) / size.clamp(min=least)).max())


def check_against_truth(hidden, weight, targets, names, *, floor=1.0, **options):
    found = linear_statistics(hidden, weight, targets, differentiate=names, **options)
    expected, leaves = truth(hidden, weight, targets, **options)
    largest = float((leaves[0] @ leaves[1].T).detach().abs().max())
    for name in found._fields:
        if name == "mean_logit" and "mean_logit" not in names:
            continue
        error = (getattr(found, name).detach() - getattr(expected, name).detach()).abs().max()
        assert error <= LOGIT_TOLERANCE * (10 + largest), name
    upstream = {name: torch.randn(len(targets)) for name in names}
    gradients = torch.autograd.grad(weighted_sum(found, upstream), (hidden, weight))
    truths = torch.autograd.grad(weighted_sum(expected, upstream), leaves)
    for found_gradient, true_gradient in zip(gradients, truths, strict=True):
        assert found_gradient.dtype == hidden.dtype
        error = row_error(found_gradient, true_gradient, floor)
        # Several terms cancel in part: what is left is smaller than what was rounded.
        assert error <= GRADIENT_TOLERANCE[hidden.dtype] * (1 if len(names) == 1 else 2)


def test_levels_start_with_the_baseline_and_follow_the_cpus():
    assert LEVELS[0] == "baseline"
    assert set(LEVELS) <= {"baseline", "avx2", "avx512", "avx512bf16", "amx"}
    assert set(LEVELS) - {"avx512bf16", "amx"} <= set(_cpu.simd_levels())


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("level", LEVELS)
def test_policy_statistics(run_at, level, shape, dtype):
    run_at(level)
    check_against_truth(*make_head(*shape, dtype), POLICY_NAMES)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("level", LEVELS)
def test_every_row_of_the_log_probabilitys_gradient(run_at, level, dtype):
    run_at(level)
    hidden, weight, targets = make_head(64, 1000, 64, dtype)
    check_against_truth(hidden, weight, targets, ("logprob",), floor=0.0)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("level", LEVELS)
def test_everything_at_once(run_at, level, dtype):
    run_at(level)
    hidden, weight, targets = make_head(70, 333, 72, dtype)
    reference = make_reference(hidden, weight, drift=0.1)
    options = {"temperature": 0.7, "softcap": 5.0, "valid_N": torch.rand(70) > 0.4}
    check_against_truth(hidden, weight, targets, ALL_NAMES, reference=reference, **options)


@pytest.mark.parametrize("level", LEVELS)
def test_a_reference_of_another_width_far_away(run_at, level):
    run_at(level)
    hidden, weight, targets = make_head(40, 300, 64, torch.float32)
    other_hidden, other_weight, _ = make_head(40, 300, 24, torch.float32, spread=8.0)
    reference = ReferenceHead(other_hidden.detach(), other_weight.detach())
    check_against_truth(hidden, weight, targets, ALL_NAMES, reference=reference)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("name", ALL_NAMES)
def test_each_statistic_alone(name, dtype):
    hidden, weight, targets = make_head(45, 200, 40, dtype)
    reference = make_reference(hidden, weight, drift=0.2)
    check_against_truth(hidden, weight, targets, (name,), reference=reference)


@pytest.mark.parametrize("needed", [(True, False), (False, True)], ids=["hidden", "weight"])
def test_only_one_gradient_is_needed(needed):
    hidden, weight, targets = make_head(20, 150, 16, torch.float32)
    both = linear_statistics(hidden, weight, targets).logprob.sum()
    expected = torch.autograd.grad(both, (hidden, weight))
    hidden.requires_grad_(needed[0]), weight.requires_grad_(needed[1])
    linear_statistics(hidden, weight, targets).logprob.sum().backward()
    for leaf, gradient, is_needed in zip((hidden, weight), expected, needed, strict=True):
        assert torch.equal(leaf.grad, gradient) if is_needed else leaf.grad is None


@pytest.mark.parametrize("valid", ["none", "one", "some"])
@pytest.mark.parametrize("level", [LEVELS[0], BEST])
def test_rows_that_are_not_valid_cost_and_give_nothing(run_at, level, valid):
    run_at(level)
    hidden, weight, targets = make_head(37, 300, 24, torch.float32)
    valid_N = {
        "none": torch.zeros(37, dtype=torch.bool),
        "one": torch.arange(37) == 5,
        "some": torch.arange(37) % 3 == 0,
    }[valid]
    targets = torch.where(valid_N, targets, -100)
    with torch.no_grad():
        hidden[~valid_N] = math.nan
    found = linear_statistics(hidden, weight, targets, valid_N=valid_N, memory_budget_bytes=10**6)
    assert not any(field[~valid_N].any() for field in found)
    dhidden, dweight = torch.autograd.grad(found.logprob.sum(), (hidden, weight))
    assert not dhidden[~valid_N].any()
    kept = hidden[valid_N].detach().requires_grad_()
    dense = linear_statistics(kept, weight, targets[valid_N])
    assert torch.equal(found.logprob[valid_N], dense.logprob)
    expected = torch.autograd.grad(dense.logprob.sum(), (kept, weight))
    assert torch.equal(dhidden[valid_N], expected[0])
    assert torch.equal(dweight, expected[1])


def regime(name, num_tokens=24, vocabulary=400, width=32):
    """hidden and weight whose logits are given by the first entries of each row."""
    hidden, weight, targets = make_head(num_tokens, vocabulary, width, torch.float32, spread=0.5)
    hidden, weight = hidden.detach(), weight.detach()
    if name == "flat":
        weight.zero_()
    if name == "negative":
        hidden[:, 0], weight[:, 0] = 16.0, -8.0
    if name == "peaked":  # logits of ±60, the target at -60
        hidden[:, 0] = 1.0
        weight[:, 0] = torch.where(torch.arange(vocabulary) % 2 == 0, 60.0, -60.0)
        targets = targets // 2 * 2 + 1
    return hidden.requires_grad_(), weight.requires_grad_(), targets


@pytest.mark.parametrize("name", ["flat", "negative", "peaked"])
@pytest.mark.parametrize("level", LEVELS)
def test_regimes(run_at, level, name):
    run_at(level)
    check_against_truth(*regime(name), ("logprob", "lse"))


@pytest.mark.parametrize("level", LEVELS)
def test_a_certain_target_keeps_its_digits(run_at, level):
    run_at(level)
    certainty = torch.tensor([2.0, 5.0, 10.0, 15.0, 20.0, 40.0, 80.0])
    hidden = torch.zeros(7, 8)
    hidden[:, 0] = certainty
    weight = torch.zeros(300, 8)
    weight[17, 0] = 1.0
    hidden.requires_grad_()
    targets = torch.full((7,), 17)
    found = linear_statistics(hidden, weight, targets)
    exact = -torch.log1p(299 * torch.exp(-certainty.double()))
    assert ((found.logprob.detach() / exact - 1).abs() <= 4e-7).all()
    assert (found.logprob <= 0).all()
    (gradient,) = torch.autograd.grad(found.logprob.sum(), hidden)
    # p[target] - 1 and the other probabilities, whose sum it is.
    away = -torch.expm1(exact)
    assert ((gradient[:, 0] / away - 1).abs() <= 1e-5).all()


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("level", LEVELS)
def test_no_drift_is_exactly_zero(run_at, level, dtype):
    run_at(level)
    hidden, weight, targets = make_head(50, 700, 40, dtype)
    reference = ReferenceHead(hidden.detach().clone(), weight.detach().clone())
    found = linear_statistics(
        hidden, weight, targets, reference=reference, differentiate=("kl",), softcap=8.0
    )
    assert not found.kl.any()
    assert not found.log_ratio.any()
    gradients = torch.autograd.grad(found.kl.sum(), (hidden, weight))
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("drift", [7e-4, 3e-3, 1e-2, 1e-1, 1.0])
@pytest.mark.parametrize("level", LEVELS)
def test_small_divergences(run_at, level, drift):
    """Inputs on a grid of 2^-12, so that their drift is in the inputs and not in a rounding."""
    run_at(level)
    hidden, weight, targets = make_head(48, 1000, 64, torch.float32)
    reference = make_reference(hidden, weight, drift=drift)
    with torch.no_grad():
        for tensor in (hidden, reference.hidden_NE):
            tensor.copy_(torch.round(tensor * 4096) / 4096)
    found = linear_statistics(hidden, weight, targets, reference=reference, differentiate=("kl",))
    expected, leaves = truth(hidden, weight, targets, reference=reference)
    assert (found.kl >= 0).all()
    assert ((found.kl.detach() / expected.kl.detach() - 1).abs() <= 1e-3).all()
    found_gradients = torch.autograd.grad(found.kl.sum(), (hidden, weight))
    true_gradients = torch.autograd.grad(expected.kl.sum(), leaves)
    for gradient, true_gradient in zip(found_gradients, true_gradients, strict=True):
        error = (gradient - true_gradient).norm() / true_gradient.norm()
        assert error <= 2e-2


@pytest.mark.parametrize("names", [("logprob",), ALL_NAMES], ids=["plain", "all"])
@pytest.mark.parametrize("level", LEVELS)
def test_what_is_stored_never_changes_a_bit(run_at, level, names):
    run_at(level)
    hidden, weight, targets = make_head(40, 700, 16, torch.float32)
    reference = make_reference(hidden, weight, drift=0.1)
    valid_N = torch.arange(40) != 7
    found = []
    for budget in (0, 4 * 40 * 700, 10**9):
        statistics = linear_statistics(
            hidden,
            weight,
            targets,
            valid_N=valid_N,
            reference=reference,
            softcap=9.0,
            differentiate=names,
            memory_budget_bytes=budget,
        )
        total = weighted_sum(statistics, dict.fromkeys(names, 1.0))
        found.append((*statistics, *torch.autograd.grad(total, (hidden, weight))))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_the_budget_is_kept():
    hidden, weight = torch.empty(40, 16), torch.empty(700, 16)
    path = CpuPath()
    for budget in (0, 10_000, 100_000, 10**9):
        for keeps_deltas in (False, True):
            columns = path.stored_columns(hidden, weight, keeps_deltas=keeps_deltas, budget=budget)
            stored_bytes = path.new_stored(hidden, columns).nbytes * (2 if keeps_deltas else 1)
            assert stored_bytes <= budget
            assert columns <= 700
    assert columns == 700


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("level", LEVELS)
def test_threads_batches_and_repeats_give_the_same_bits(run_at, level, dtype):
    run_at(level)
    hidden, weight, targets = make_head(70, 2500, 24, dtype)
    reference = make_reference(hidden, weight, drift=0.05)

    def statistics(rows):
        part = ReferenceHead(reference.hidden_NE[rows], reference.weight_VE)
        return linear_statistics(
            hidden[rows], weight, targets[rows], reference=part, differentiate=ALL_NAMES
        )

    def run(threads):
        torch.set_num_threads(threads)
        found = statistics(slice(None))
        total = weighted_sum(found, dict.fromkeys(ALL_NAMES, 1.0))
        return *found, *torch.autograd.grad(total, (hidden, weight))

    first, again, threaded = run(1), run(1), run(3)
    torch.set_num_threads(1)
    for other in (again, threaded):
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    for rows in (slice(0, 1), slice(37, 38), slice(5, 50)):
        alone = statistics(rows)
        assert all(torch.equal(a, b[rows]) for a, b in zip(alone, first, strict=False))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_strided_and_expanded_inputs(dtype):
    hidden, weight, targets = make_head(30, 200, 48, dtype)
    names = POLICY_NAMES
    check_against_truth(hidden[::2, :24], weight[::3, 24:], targets[::2] % 60, names)
    one_row = hidden[:1].detach().requires_grad_()
    check_against_truth(one_row.expand(9, 48), weight, targets[:1].expand(9), names)
    turned = weight.detach().T.contiguous().requires_grad_()
    check_against_truth(hidden, turned.T, targets.int(), names)


@pytest.mark.parametrize("level", LEVELS)
def test_not_a_number_stays_in_its_row(run_at, level):
    run_at(level)
    hidden, weight, targets = make_head(35, 300, 16, torch.float32)
    clean = linear_statistics(hidden, weight, targets)
    with torch.no_grad():
        hidden[3, 0] = math.nan
    found = linear_statistics(hidden, weight, targets)
    others = torch.arange(35) != 3
    for name in ("logprob", "lse", "entropy"):
        assert getattr(found, name)[3].isnan()
        assert torch.equal(getattr(found, name)[others], getattr(clean, name)[others])


@pytest.mark.skipif(not CLEAR_REFS.exists(), reason="needs /proc/self/clear_refs")
def test_no_buffer_of_tokens_times_vocabulary():
    """Resident memory at its peak, against what one float32 matrix of logits would take."""
    num_tokens, vocabulary, width = 512, 65_536, 8
    hidden, weight, targets = make_head(num_tokens, vocabulary, width, torch.float32)

    def resident_bytes(field):
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024

    def step():
        loss = linear_statistics(hidden, weight, targets, memory_budget_bytes=0).logprob.sum()
        torch.autograd.grad(loss, (hidden, weight))

    step()
    CLEAR_REFS.write_text("5")  # starts the peak again
    before = resident_bytes("VmRSS")
    step()
    assert resident_bytes("VmHWM") - before < num_tokens * vocabulary * 4 / 4


def test_unknown_level_and_wrong_arrays_are_refused(run_at):
    hidden, weight, targets = make_head(4, 20, 8, torch.float32)
    run_at("avx1024")
    with pytest.raises(ValueError, match=r"simd: expected one of baseline.*got avx1024"):
        linear_statistics(hidden, weight, targets)
    run_at(None)
    with pytest.raises(ValueError, match=r"targets: expected ids in \[0, 20\)"):
        linear_statistics(hidden, weight, targets + 20)
