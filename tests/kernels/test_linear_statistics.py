"""linear_statistics: the statistics against float64, and the manners of a torch operator."""

import pytest
import torch

from pixelis_fast.kernels.linear_loss import LinearStatistics, ReferenceHead, linear_statistics
from pixelis_fast.kernels.linear_loss.problem import NAMES
from pixelis_fast.kernels.linear_loss.reference import reference_statistics
from tests.kernels.loss_fixtures import (
    DTYPES,
    IMPLEMENTATIONS,
    assert_same_gradients,
    gradients,
    make_heads,
)

ALL = sorted(set(NAMES) - {"reference_lse"})
SHAPES = {
    "cpu": [(1, 67, 8), (9, 333, 64), (3, 1, 8), (70, 129, 24), (5, 128, 16), (0, 67, 8)],
    "triton": [(1, 67, 8), (9, 129, 24), (0, 67, 8)],
}
"""The interpreter takes a second per row of this table."""
PEAKS = {"flat": 0.01, "usual": 3.0, "peaked": 30.0}


def statistics(heads, **options):
    return linear_statistics(
        *heads.p, heads.targets, **{"reference": ReferenceHead(*heads.q), **options}
    )


def textbook(heads, **options):
    truth = heads.double()
    head = ReferenceHead(*truth.q)
    return truth, reference_statistics(*truth.p, heads.targets, reference=head, **options)


def mixed(found: LinearStatistics):
    """One loss that uses every differentiable statistic, with another upstream per token."""
    rows = torch.arange(1.0, len(found.lse) + 1, dtype=torch.float64)
    return sum(
        (rows * (1 + 0.1 * place) * getattr(found, name).double()).sum()
        for place, name in enumerate(ALL)
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("implementation", "shape"),
    [(name, shape) for name in IMPLEMENTATIONS for shape in SHAPES[name]],
    ids=str,
)
def test_linear_statistics(shape, dtype, implementation):
    N, V, D = shape
    heads = make_heads(N, V, D, dtype=dtype, drift=0.2)
    found = statistics(heads, differentiate=ALL, implementation=implementation)
    truth, expected = textbook(heads)
    for name in NAMES:
        values_N = getattr(found, name)
        assert values_N.dtype == torch.float32
        torch.testing.assert_close(
            values_N.double(), getattr(expected, name), rtol=1e-4, atol=2e-5, msg=name
        )
    assert_same_gradients(mixed(found), mixed(expected), heads.p, truth.p)


@pytest.mark.parametrize(
    ("peak", "implementation"), [*((peak, "cpu") for peak in PEAKS), ("peaked", "triton")]
)
def test_flat_and_peaked_logits(peak, implementation):
    heads = make_heads(9, 129, 16, peak=PEAKS[peak], drift=0.02)
    found = statistics(heads, differentiate=ALL, implementation=implementation)
    truth, expected = textbook(heads)
    for name in NAMES:
        torch.testing.assert_close(
            getattr(found, name).double(), getattr(expected, name), rtol=1e-3, atol=1e-4, msg=name
        )
    assert_same_gradients(mixed(found), mixed(expected), heads.p, truth.p)


@pytest.mark.parametrize(
    ("budget", "implementation"),
    [(0, "cpu"), (20_000, "cpu"), (None, "cpu"), (0, "triton"), (None, "triton")],
)
def test_the_memory_budget_changes_no_answer(budget, implementation):
    heads = make_heads(9, 333 if implementation == "cpu" else 67, 16)
    found = statistics(
        heads, differentiate=ALL, memory_budget_bytes=budget, implementation=implementation
    )
    truth, expected = textbook(heads)
    assert_same_gradients(mixed(found), mixed(expected), heads.p, truth.p)


@pytest.mark.parametrize("name", ALL)
def test_only_what_is_named_carries_gradient(name):
    found = statistics(make_heads(), differentiate=(name,))
    assert [field for field in NAMES if getattr(found, field).requires_grad] == [name]


@pytest.mark.parametrize("which", ["hidden", "weight", "neither"])
def test_subsets_that_require_grad(which):
    heads = make_heads()
    hidden, weight = (tensor.detach() for tensor in heads.p)
    leaves = {"hidden": [hidden], "weight": [weight], "neither": []}[which]
    for leaf in leaves:
        leaf.requires_grad_()
    found = linear_statistics(hidden, weight, heads.targets)
    assert found.logprob.requires_grad == bool(leaves)
    if leaves:
        both = gradients(linear_statistics(*heads.p, heads.targets).logprob, heads.p)
        ours = gradients(found.logprob, leaves)[0]
        torch.testing.assert_close(ours, both[0 if which == "hidden" else 1])


def test_no_grad_keeps_nothing():
    with torch.no_grad():
        found = statistics(make_heads(), differentiate=ALL)
    assert not any(value.requires_grad for value in found)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_integer_targets(dtype):
    heads = make_heads()
    found = linear_statistics(*heads.p, heads.targets.to(dtype))
    assert torch.equal(found.logprob, linear_statistics(*heads.p, heads.targets).logprob)
    assert all(grad.any() for grad in gradients(found.logprob, heads.p))


def views(heads):
    """The same numbers behind awkward strides."""
    hidden = heads.hidden_p.detach().T.contiguous().T
    weight = torch.zeros(67, 32)
    weight[:, ::2] = heads.weight_p.detach()
    targets = torch.stack([heads.targets, heads.targets], dim=1)[:, 0]
    return hidden.requires_grad_(), weight[:, ::2].requires_grad_(), targets


def test_strided_inputs():
    heads = make_heads()
    hidden, weight, targets = views(heads)
    assert not any(tensor.is_contiguous() for tensor in (hidden, weight, targets))
    found = linear_statistics(hidden, weight, targets)
    expected = linear_statistics(*heads.p, heads.targets)
    assert torch.equal(found.logprob, expected.logprob)
    for ours, truth in zip(
        gradients(found.logprob, (hidden, weight)),
        gradients(expected.logprob, heads.p),
        strict=True,
    ):
        assert torch.equal(ours, truth)


def test_autocast_casts_as_a_linear_layer_does():
    heads = make_heads()
    with torch.autocast("cpu", torch.bfloat16):
        found = statistics(heads, differentiate=ALL)
        loss = mixed(found)
    lower = make_heads(dtype=torch.bfloat16)
    expected = statistics(lower, differentiate=ALL)
    for name in NAMES:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    pairs = zip(gradients(loss, heads.p), gradients(mixed(expected), lower.p), strict=True)
    for ours, truth in pairs:
        assert ours.dtype == torch.float32
        assert torch.equal(ours, truth.float())


def test_backward_twice_gives_the_same_gradient():
    heads = make_heads()
    loss = mixed(statistics(heads, differentiate=ALL))
    first, second = gradients(loss, heads.p), gradients(loss, heads.p)
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


def test_a_second_derivative_is_a_clear_error():
    heads = make_heads()
    logprob_N = linear_statistics(*heads.p, heads.targets).logprob
    (grad,) = torch.autograd.grad((logprob_N**2).sum(), heads.p[:1], create_graph=True)
    with pytest.raises(RuntimeError, match=r"linear_gradient|no autograd formula"):
        torch.autograd.grad(grad.sum(), heads.p)


def test_gradients_add_up_over_two_uses_of_the_head():
    heads = make_heads()
    one = linear_statistics(*heads.p, heads.targets).logprob.sum()
    two = linear_statistics(heads.hidden_p, heads.weight_p, heads.targets.flip(0)).logprob.sum()
    expected = [
        a + b for a, b in zip(gradients(one, heads.p), gradients(two, heads.p), strict=True)
    ]
    (one + two).backward()
    torch.testing.assert_close(heads.hidden_p.grad, expected[0])
    torch.testing.assert_close(heads.weight_p.grad, expected[1])


HIDDEN, WEIGHT = torch.zeros(9, 16), torch.zeros(67, 16)
BAD = {
    "one dimension": ({"hidden_ND": torch.zeros(16)}, "hidden: expected shape"),
    "float64": ({"hidden_ND": HIDDEN.double()}, "hidden: expected dtype bfloat16 or float32"),
    "two dtypes": ({"hidden_ND": HIDDEN.bfloat16()}, "weight dtype: expected torch.bfloat16"),
    "two widths": ({"hidden_ND": torch.zeros(9, 24)}, "weight width: expected 24"),
    "an odd width": (
        {"hidden_ND": torch.zeros(9, 12), "weight_VD": torch.zeros(67, 12)},
        "hidden width: expected a multiple of 8",
    ),
    "no vocabulary": ({"weight_VD": torch.zeros(0, 16)}, "weight: expected at least one"),
    "targets of another length": ({"targets_N": torch.zeros(3).long()}, "targets: expected shape"),
    "targets of another dtype": ({"targets_N": torch.zeros(9)}, "targets: expected dtype"),
    "an unknown target": ({"targets_N": torch.full((9,), 67)}, r"targets: expected ids in \[0, 67"),
    "a negative target": ({"targets_N": torch.full((9,), -1)}, r"targets: expected ids in \[0, 67"),
    "a mask of numbers": ({"valid_N": torch.ones(9)}, "valid: expected dtype torch.bool"),
    "a temperature of 0": ({"temperature": 0.0}, "temperature: expected a positive"),
    "an infinite softcap": ({"softcap": float("inf")}, "softcap: expected a positive"),
    "an unknown statistic": ({"differentiate": ("loss",)}, "differentiate: expected some of"),
    "a kl without reference": ({"differentiate": ("kl",)}, "differentiate: expected some of"),
    "an unknown implementation": ({"implementation": "cuda"}, "implementation: expected one of"),
    "a reference of other rows": (
        {"reference": ReferenceHead(torch.zeros(8, 16), WEIGHT)},
        "reference.hidden rows: expected 9",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    changes, message = BAD[name]
    arguments = {
        "hidden_ND": HIDDEN,
        "weight_VD": WEIGHT,
        "targets_N": torch.zeros(9, dtype=torch.int64),
    }
    with pytest.raises(ValueError, match=message):
        linear_statistics(**{**arguments, **changes})


def test_an_unknown_target_matters_only_in_a_valid_row():
    heads = make_heads()
    valid_N = torch.arange(9) != 4
    targets_N = heads.targets.clone()
    targets_N[4] = -100
    found = linear_statistics(*heads.p, targets_N, valid_N=valid_N)
    expected = linear_statistics(*heads.p, heads.targets, valid_N=valid_N)
    assert torch.equal(found.logprob, expected.logprob)
    assert not found.logprob[4].any()
