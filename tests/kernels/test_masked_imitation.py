"""masked_imitation_loss against the textbook in float64: values, gradients, masks, weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelis_fast.kernels.masked_imitation import masked_imitation_loss
from pixelis_fast.kernels.masked_imitation.reference import masked_imitation_reference
from tests.kernels.loss_fixtures import (
    PATHS,
    assert_same_gradients,
    assert_same_when_compiled,
    compiled,
    gradients,
    make_heads,
)

OPTIONS = {
    "plain": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "normalizer": {"normalizer": 37.0},
    "z-loss": {"z_loss": 1e-2},
    "label smoothing": {"label_smoothing": 0.1},
    "softcap": {"softcap": 5.0},
    "temperature": {"temperature": 0.7},
    "lean": {"memory_budget_bytes": 0},
    "all": {
        "z_loss": 1e-3,
        "label_smoothing": 0.2,
        "softcap": 20.0,
        "temperature": 1.3,
        "reduction": "sum",
    },
}
SHAPES = [(1, 67, 8), (9, 67, 16), (5, 333, 24), (3, 1, 8)]


def masked_case(N, V, D, dtype=torch.float32):
    heads = make_heads(N, V, D, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    weights_N = torch.tensor([1.0, 2.0, 0.0, 1.5, 8.0])[torch.arange(N) % 5]
    ignored_N = torch.rand(N, generator=generator) < 0.3
    return heads._replace(targets=heads.targets.masked_fill(ignored_N, -100)), weights_N


def textbook_options(options):
    return {name: value for name, value in options.items() if name != "memory_budget_bytes"}


@pytest.mark.parametrize(("dtype", "implementation"), PATHS, ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_masked_imitation_loss(name, dtype, implementation):
    heads, weights_N = masked_case(11, 67, 16, dtype)
    truth = heads.double()
    ours = masked_imitation_loss(
        *heads.p, heads.targets, weights_N, implementation=implementation, **OPTIONS[name]
    )
    expected = masked_imitation_reference(
        *truth.p, heads.targets, weights_N, **textbook_options(OPTIONS[name])
    )
    assert ours.loss.dtype == torch.float32
    torch.testing.assert_close(ours.loss.double(), expected, rtol=1e-5, atol=1e-5)
    upstream = torch.arange(1.0, 12.0) if ours.loss.ndim else torch.tensor(3.0)
    assert_same_gradients(ours.loss * upstream, expected * upstream, heads.p, truth.p)


@pytest.mark.parametrize(("N", "V", "D"), SHAPES, ids=str)
def test_awkward_shapes(N, V, D):
    heads, weights_N = masked_case(N, V, D)
    truth = heads.double()
    ours = masked_imitation_loss(*heads.p, heads.targets, weights_N).loss
    expected = masked_imitation_reference(*truth.p, heads.targets, weights_N)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-6)
    assert_same_gradients(ours, expected, heads.p, truth.p)


def test_no_tokens_at_all():
    heads = make_heads(0, 67, 16)
    found = masked_imitation_loss(*heads.p, heads.targets)
    assert found.loss == 0
    assert all(not grad.any() for grad in gradients(found.loss, heads.p))


def test_the_by_products_are_the_statistics_and_carry_no_gradient():
    heads, weights_N = masked_case(11, 67, 16)
    found = masked_imitation_loss(*heads.p, heads.targets, weights_N)
    counted_N = (heads.targets != -100) & (weights_N != 0)
    logp_NV = (heads.hidden_p @ heads.weight_p.T).double().log_softmax(-1)
    rows = torch.arange(11)[counted_N]
    expected_N = logp_NV[rows, heads.targets[counted_N]]
    torch.testing.assert_close(
        found.logprob_N[counted_N].double(), expected_N, rtol=1e-5, atol=1e-5
    )
    entropy_N = -(logp_NV.exp() * logp_NV).sum(-1)[counted_N]
    torch.testing.assert_close(found.entropy_N[counted_N].double(), entropy_N, rtol=1e-5, atol=1e-5)
    for values_N in found[1:]:
        assert not values_N.requires_grad
        assert not values_N[~counted_N].any()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_all_masked_is_zero_with_zero_gradients(reduction):
    heads = make_heads()
    targets_N = torch.full_like(heads.targets, -100)
    loss = masked_imitation_loss(*heads.p, targets_N, reduction=reduction, z_loss=0.1).loss
    assert loss == 0
    assert all(not grad.any() for grad in gradients(loss, heads.p))


def test_another_ignore_index():
    heads = make_heads()
    moved_N = heads.targets.clone()
    moved_N[::2] = 3
    expected_N = moved_N.masked_fill(moved_N == 3, -100)
    ours = masked_imitation_loss(*heads.p, moved_N, ignore_index=3).loss
    assert ours == masked_imitation_loss(*heads.p, expected_N).loss


def test_a_normalizer_makes_micro_batches_add_up():
    heads, weights_N = masked_case(12, 67, 16)
    total = weights_N[heads.targets != -100].sum()
    whole = masked_imitation_loss(*heads.p, heads.targets, weights_N).loss
    parts = sum(
        masked_imitation_loss(
            heads.hidden_p[part],
            heads.weight_p,
            heads.targets[part],
            weights_N[part],
            normalizer=normalizer,
        ).loss
        for part, normalizer in ((slice(0, 5), total), (slice(5, 12), float(total)))
    )
    torch.testing.assert_close(parts, whole)
    for ours, expected in zip(gradients(parts, heads.p), gradients(whole, heads.p), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_weights_of_any_floating_dtype(dtype):
    heads, weights_N = masked_case(11, 67, 16)
    ours = masked_imitation_loss(*heads.p, heads.targets, weights_N.to(dtype)).loss
    assert ours.dtype == torch.float32
    assert ours == masked_imitation_loss(*heads.p, heads.targets, weights_N).loss


@settings(max_examples=25)
@given(
    weights=st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.25]), min_size=6, max_size=6),
    ignored=st.lists(st.booleans(), min_size=6, max_size=6),
    reduction=st.sampled_from(["mean", "sum", "none"]),
)
def test_any_mask_and_any_weights(weights, ignored, reduction):
    heads = make_heads(6, 21, 8)
    truth = heads.double()
    targets_N = heads.targets.masked_fill(torch.tensor(ignored), -100)
    weights_N = torch.tensor(weights)
    ours = masked_imitation_loss(*heads.p, targets_N, weights_N, reduction=reduction).loss
    expected = masked_imitation_reference(*truth.p, targets_N, weights_N, reduction=reduction)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-5)
    assert_same_gradients(ours, expected, heads.p, truth.p)


@pytest.mark.parametrize("name", ["plain", "all"])
def test_compiles_to_one_graph(name):
    heads, weights_N = masked_case(11, 67, 16)

    def loss(hidden_ND, weight_VD, targets_N, weights_N):
        return masked_imitation_loss(
            hidden_ND, weight_VD, targets_N, weights_N, **OPTIONS[name]
        ).loss

    inputs = (*heads.p, heads.targets, weights_N)
    assert_same_when_compiled(loss, [(inputs, heads.p)])


def test_compiled_code_still_refuses_a_negative_weight():
    heads, weights_N = masked_case(11, 67, 16)
    function = compiled(lambda *inputs: masked_imitation_loss(*inputs).loss)
    weights_N[0] = -1.0
    targets_N = heads.targets.clamp(min=0)
    with pytest.raises(ValueError, match="token_weights: expected finite numbers of at least 0"):
        function(*heads.p, targets_N, weights_N)


BAD = {
    "targets of another length": ({"targets_N": torch.zeros(4, dtype=torch.int64)}, "targets: "),
    "targets of another dtype": ({"targets_N": torch.zeros(9)}, "targets: expected dtype"),
    "weights of another length": ({"token_weights_N": torch.ones(4)}, "token_weights: expected sh"),
    "integer weights": (
        {"token_weights_N": torch.ones(9, dtype=torch.int64)},
        "token_weights: expected a floating dtype",
    ),
    "weights that learn": (
        {"token_weights_N": torch.ones(9, requires_grad=True)},
        "token_weights: expected constants",
    ),
    "a negative weight": (
        {"token_weights_N": torch.tensor([1.0] * 8 + [-1.0])},
        "token_weights: expected finite numbers of at least 0, got -1.0",
    ),
    "a weight that is not a number": (
        {"token_weights_N": torch.tensor([1.0] * 8 + [float("nan")])},
        "token_weights: expected finite numbers of at least 0, got nan",
    ),
    "an unknown reduction": ({"reduction": "avg"}, "reduction: expected one of mean, sum, none"),
    "a normalizer of a sum": ({"reduction": "sum", "normalizer": 2.0}, "normalizer: expected re"),
    "a normalizer of 0": ({"normalizer": 0.0}, "normalizer: expected a finite number above 0"),
    "a normalizer per token": ({"normalizer": torch.ones(2)}, "normalizer: expected a number"),
    "a normalizer that learns": (
        {"normalizer": torch.tensor(2.0, requires_grad=True)},
        "normalizer: expected a constant",
    ),
    "a negative z-loss": ({"z_loss": -1.0}, "z_loss: expected a finite number of at least 0"),
    "smoothing of 1": ({"label_smoothing": 1.0}, "label_smoothing: expected a number in"),
    "a target beyond the vocabulary": (
        {"targets_N": torch.full((9,), 67)},
        "targets: expected ids in",
    ),
    "a softcap of 0": ({"softcap": 0.0}, "softcap: expected a positive finite number"),
    "a temperature of 0": ({"temperature": 0.0}, "temperature: expected a positive finite number"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    changes, message = BAD[name]
    heads = make_heads()
    arguments = {
        "hidden_ND": heads.hidden_p,
        "weight_VD": heads.weight_p,
        "targets_N": heads.targets,
    }
    with pytest.raises(ValueError, match=message):
        masked_imitation_loss(**{**arguments, **changes})


def test_a_bad_weight_of_an_ignored_token_does_not_matter():
    heads = make_heads()
    targets_N = heads.targets.clone()
    targets_N[4] = -100
    weights_N = torch.ones(9)
    weights_N[4] = float("nan")
    ours = masked_imitation_loss(*heads.p, targets_N, weights_N).loss
    assert ours == masked_imitation_loss(*heads.p, targets_N).loss
