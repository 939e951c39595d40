"""token_kl against the textbook in float64: every value form with every gradient form."""

import pytest
import torch

from pixelis_fast.kernels.token_kl import token_kl
from pixelis_fast.kernels.token_kl.estimators import GRADIENTS, VALUES, k3
from pixelis_fast.kernels.token_kl.reference import token_kl_reference
from tests.kernels.loss_fixtures import (
    DTYPES,
    IMPLEMENTATIONS,
    assert_same_gradients,
    assert_same_when_compiled,
    distance,
    gradients,
    make_heads,
)

VALID = torch.tensor([True, True, False, True, True, False, True, True, True])
UPSTREAM = torch.linspace(0.5, 4.0, 9)
VALUE_TOLERANCE, KL_GRADIENT_TOLERANCE = 1e-3, 2e-2
"""Of the drift sweep, against float64 on the same inputs."""


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_token_kl(value, gradient, implementation):
    heads = make_heads(drift=0.3)
    truth = heads.double()
    options = {"value": value, "gradient": gradient, "valid_N": VALID}
    if gradient == "reverse_kl":
        options["importance_N"] = torch.linspace(0.8, 1.3, 9)
    ours_N = token_kl(*heads.p, *heads.q, heads.targets, implementation=implementation, **options)
    expected_N = token_kl_reference(*truth.p, *truth.q, heads.targets, **options)
    assert ours_N.dtype == torch.float32
    torch.testing.assert_close(ours_N.double(), expected_N, rtol=1e-5, atol=1e-6)
    assert_same_gradients(ours_N * UPSTREAM, expected_N * UPSTREAM, heads.p, truth.p)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_the_value_is_bitwise_that_of_its_form_whatever_the_gradient(value, gradient):
    heads = make_heads()
    ours_N = token_kl(*heads.p, *heads.q, heads.targets, value=value, gradient=gradient)
    plain_N = token_kl(*heads.p, *heads.q, heads.targets, value=value)
    assert torch.equal(ours_N, plain_N)


@pytest.mark.parametrize("form", ["k2", "k3", "reverse_kl"])
def test_a_clamp_holds_value_and_slope_at_the_bound(form):
    heads = make_heads(drift=1.0)
    truth = heads.double()
    options = {"value": "k3" if form == "reverse_kl" else form, "gradient": form, "clamp": 0.5}
    ours_N = token_kl(*heads.p, *heads.q, heads.targets, **options)
    expected_N = token_kl_reference(*truth.p, *truth.q, heads.targets, **options)
    torch.testing.assert_close(ours_N.double(), expected_N, rtol=1e-5, atol=1e-6)
    assert_same_gradients(ours_N * UPSTREAM, expected_N * UPSTREAM, heads.p, truth.p)
    free_N = token_kl(*heads.p, *heads.q, heads.targets, value="k1").detach()
    assert (free_N.abs() > 0.5).any()
    largest = max(0.5**2 / 2, torch.tensor(0.5).expm1().item() - 0.5)
    assert ours_N.max() <= largest + 1e-6
    # A token beyond the bound is still pulled back.
    beyond = int(free_N.abs().argmax())
    assert gradients(ours_N[beyond], heads.p)[0][beyond].any()


def test_k3_keeps_float32_precision_at_every_ratio():
    ratio_N = torch.cat([torch.logspace(-7, 1.5, 200), -torch.logspace(-7, 1.5, 200)])
    exact_N = torch.expm1(-ratio_N.double()) + ratio_N.double()
    small_N = ratio_N.double().abs() < 1e-4
    exact_N = torch.where(small_N, ratio_N.double() ** 2 / 2 * (1 - ratio_N.double() / 3), exact_N)
    found_N = k3(ratio_N)
    assert (found_N >= 0).all()
    assert ((found_N.double() - exact_N) / exact_N).abs().max() < 1e-6


def enumerated(value, gradient, *, drift=0.4):
    """Every token of the vocabulary as the drawn one, in one batch, weighted by p."""
    heads = make_heads(1, 24, 8, drift=drift, peak=1.5)
    V = heads.weight_p.shape[0]
    tokens_V = torch.arange(V)
    hidden_q_VD = heads.hidden_q.expand(V, -1)
    kl_V = token_kl(
        heads.hidden_p.expand(V, -1),
        heads.weight_p,
        hidden_q_VD,
        heads.weight_q,
        tokens_V,
        value=value,
        gradient=gradient,
    )
    p_V = (heads.hidden_p @ heads.weight_p.T).softmax(-1)[0].detach()
    return heads, (p_V * kl_V).sum()


@pytest.mark.parametrize("value", ["k1", "k3"])
def test_the_mean_of_an_estimator_is_the_kl(value):
    heads, mean = enumerated(value, "k1")
    exact = token_kl(*heads.p, *heads.q)[0]
    torch.testing.assert_close(mean, exact, rtol=1e-5, atol=1e-6)


def test_the_mean_of_k2_is_near_the_kl_at_small_drift():
    heads, mean = enumerated("k2", "k1", drift=0.02)
    torch.testing.assert_close(mean, token_kl(*heads.p, *heads.q)[0], rtol=0.1, atol=0)


@pytest.mark.parametrize("gradient", ["k2", "reverse_kl", "exact"])
def test_the_mean_gradient_that_descends_the_reverse_kl(gradient):
    heads, mean = enumerated("k1", gradient)
    expected = gradients(token_kl(*heads.p, *heads.q), heads.p)
    for ours, truth in zip(gradients(mean, heads.p), expected, strict=True):
        assert distance(ours, truth) < 1e-5


def test_the_mean_gradient_of_k1_is_zero():
    heads, mean = enumerated("k1", "k1")
    scale = gradients(token_kl(*heads.p, *heads.q), heads.p)[0].norm()
    assert gradients(mean, heads.p)[0].norm() < 1e-5 * scale


def test_the_mean_gradient_of_k3_is_that_of_the_forward_kl():
    heads, mean = enumerated("k3", "k3")
    q_NV = (heads.hidden_q @ heads.weight_q.T).softmax(-1)
    logp_NV = (heads.hidden_p @ heads.weight_p.T).log_softmax(-1)
    forward_kl = (q_NV * (q_NV.log() - logp_NV)).sum()
    for ours, truth in zip(gradients(mean, heads.p), gradients(forward_kl, heads.p), strict=True):
        assert distance(ours, truth) < 1e-5


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("drift", [1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1])
def test_drift_sweep(drift, dtype):
    heads = make_heads(9, 333, 64, drift=drift, dtype=dtype)
    truth = heads.double()
    ours_N = token_kl(*heads.p, *heads.q)
    expected_N = token_kl_reference(*truth.p, *truth.q, heads.targets)
    assert (ours_N >= 0).all()
    assert distance(ours_N, expected_N) < VALUE_TOLERANCE
    pairs = zip(gradients(ours_N, heads.p), gradients(expected_N, truth.p), strict=True)
    for found, expected in pairs:
        assert distance(found, expected) < KL_GRADIENT_TOLERANCE


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", VALUES)
def test_equal_heads_have_no_kl_and_no_gradient(value, dtype):
    heads = make_heads(9, 67, 16, dtype=dtype)
    frozen = tuple(tensor.detach().clone() for tensor in heads.p)
    kl_N = token_kl(*heads.p, *frozen, heads.targets, value=value, gradient="exact")
    assert not kl_N.any()
    assert all(not grad.any() for grad in gradients(kl_N * UPSTREAM, heads.p))


@pytest.mark.parametrize("gradient", ["k2", "k3", "reverse_kl"])
def test_equal_heads_have_no_estimated_gradient(gradient):
    heads = make_heads()
    frozen = tuple(tensor.detach().clone() for tensor in heads.p)
    kl_N = token_kl(*heads.p, *frozen, heads.targets, value="k3", gradient=gradient)
    assert not kl_N.any()
    assert all(not grad.any() for grad in gradients(kl_N, heads.p))


@pytest.mark.parametrize("shared", ["the same object", "none given"])
def test_a_shared_head(shared):
    heads = make_heads()
    truth = heads.double()
    weight_q = heads.weight_p if shared == "the same object" else None
    ours_N = token_kl(*heads.p, heads.hidden_q, weight_q)
    expected_N = token_kl_reference(
        *truth.p, truth.hidden_q, truth.weight_p.detach(), heads.targets
    )
    torch.testing.assert_close(ours_N.double(), expected_N, rtol=1e-4, atol=1e-6)
    assert_same_gradients(ours_N, expected_N, heads.p, truth.p)


def test_a_reference_of_another_width():
    heads = make_heads()
    wide = tuple(tensor.repeat(1, 2) / 2**0.5 for tensor in heads.q)
    ours_N = token_kl(*heads.p, *wide)
    torch.testing.assert_close(ours_N, token_kl(*heads.p, *heads.q), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gradient", ["k1", "k2", "k3", "reverse_kl"])
@pytest.mark.parametrize("value", ["k1", "k2", "k3"])
def test_known_log_probabilities_stand_in_for_the_head(value, gradient):
    heads = make_heads(drift=0.3)
    logq_NV = (heads.hidden_q @ heads.weight_q.T).log_softmax(-1)
    known_N = logq_NV.gather(1, heads.targets[:, None])[:, 0]
    known_N = torch.where(VALID, known_N, float("nan"))
    options = {"value": value, "gradient": gradient, "valid_N": VALID}
    ours_N = token_kl(*heads.p, None, None, heads.targets, reference_logprob_N=known_N, **options)
    expected_N = token_kl(*heads.p, *heads.q, heads.targets, **options)
    torch.testing.assert_close(ours_N, expected_N, rtol=1e-4, atol=1e-4)
    pairs = zip(gradients(ours_N, heads.p), gradients(expected_N, heads.p), strict=True)
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", [{"temperature": 0.6}, {"softcap": 4.0}], ids=str)
@pytest.mark.parametrize("gradient", ["exact", "k3"])
def test_temperature_and_softcap(gradient, options):
    heads = make_heads(drift=0.3)
    truth = heads.double()
    options = {**options, "value": gradient, "gradient": gradient}
    ours_N = token_kl(*heads.p, *heads.q, heads.targets, **options)
    expected_N = token_kl_reference(*truth.p, *truth.q, heads.targets, **options)
    torch.testing.assert_close(ours_N.double(), expected_N, rtol=1e-4, atol=1e-6)
    assert_same_gradients(ours_N, expected_N, heads.p, truth.p)


def test_lean_mode_gives_the_same_gradient():
    heads = make_heads()
    stored, lean = (
        gradients(token_kl(*heads.p, *heads.q, memory_budget_bytes=budget), heads.p)
        for budget in (None, 0)
    )
    for ours, expected in zip(lean, stored, strict=True):
        assert distance(ours, expected) < 1e-5


def test_no_gradient_reaches_a_row_that_is_not_valid():
    heads = make_heads()
    kl_N = token_kl(*heads.p, *heads.q, valid_N=VALID)
    assert not kl_N[~VALID].any()
    assert not gradients(kl_N, heads.p)[0][~VALID].any()


@pytest.mark.parametrize("gradient", ["exact", "reverse_kl"])
def test_compiles_to_one_graph(gradient):
    heads = make_heads()

    def kl(hidden_p, weight_p, hidden_q, weight_q, targets_N):
        return token_kl(
            hidden_p, weight_p, hidden_q, weight_q, targets_N, value="k3", gradient=gradient
        )

    inputs = (*heads.p, *heads.q, heads.targets)
    assert_same_when_compiled(kl, [(inputs, heads.p)])


BAD = {
    "an unknown value": ({"value": "abs"}, "value: expected one of exact, k1, k2, k3"),
    "an unknown gradient": ({"gradient": "autograd"}, "gradient: expected one of exact"),
    "a clamp that bounds nothing": ({"clamp": 1.0}, "clamp: expected a form"),
    "a clamp of 0": ({"value": "k3", "clamp": 0.0}, "clamp: expected a finite number above 0"),
    "importance without its form": (
        {"importance_N": torch.ones(9)},
        'importance: expected gradient "reverse_kl"',
    ),
    "a sampled form without tokens": (
        {"targets_N": None, "value": "k3"},
        "targets: expected the drawn tokens",
    ),
    "no reference": ({"hidden_q_NE": None, "weight_q_VE": None}, "hidden_q: expected q's hidden"),
    "half a reference": ({"hidden_q_NE": None}, "hidden_q: expected given beside weight_q"),
    "an exact form of known log-probabilities": (
        {"hidden_q_NE": None, "weight_q_VE": None, "reference_logprob_N": torch.zeros(9)},
        "hidden_q: expected q's head",
    ),
    "a reference twice": ({"reference_logprob_N": torch.zeros(9)}, "reference_logprob: expected N"),
    "a mask of another dtype": ({"valid_N": torch.ones(9)}, "valid: expected dtype torch.bool"),
    "a reference that learns": (
        {"hidden_q_NE": torch.ones(9, 16, requires_grad=True)},
        "reference: expected a frozen head",
    ),
    "a head of the reference that learns": (
        {"weight_q_VE": torch.ones(67, 16, requires_grad=True)},
        "reference: expected a frozen head",
    ),
    "another vocabulary": ({"weight_q_VE": torch.ones(66, 16)}, "reference.weight rows"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    changes, message = BAD[name]
    heads = make_heads()
    names = ("hidden_p_ND", "weight_p_VD", "hidden_q_NE", "weight_q_VE", "targets_N")
    with pytest.raises(ValueError, match=message):
        token_kl(**{**dict(zip(names, heads, strict=True)), **changes})
