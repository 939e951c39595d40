"""linear_policy_loss against the textbook in float64: each part, sums of parts, clipping."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelis_fast.kernels.linear_loss import ReferenceHead
from pixelis_fast.kernels.linear_loss import op as statistics_op
from pixelis_fast.kernels.policy_loss import linear_policy_loss
from pixelis_fast.kernels.policy_loss.reference import linear_policy_reference
from tests.kernels.loss_fixtures import (
    PATHS,
    assert_same_gradients,
    assert_same_when_compiled,
    distance,
    gradients,
    make_heads,
)

N = 12
VALID = torch.arange(N) % 4 != 3
ADVANTAGES = torch.tensor([1.0, -1.0, 0.5, 9.0, -2.0, 1.5, 0.0, 9.0, -0.5, 2.0, -1.5, 9.0])
MOVED = torch.tensor([0.05, -0.1, 0.5, 0.0, -0.6, -0.4, 0.9, 0.0, 0.3, 0.2, 0.01, 0.0])
"""log(policy / behaviour): inside and outside both bounds, with either sign of advantage."""
IMITATED = torch.tensor([0.0, 2.0, 0.0, 1.0, 0.0, 0.0, 1.5, 2.0, 0.0, 0.0, 0.0, 0.5])
KL = {"kl_weight": 0.1, "reference": True}
IMITATION = {"imitation_weight": 0.3, "imitation_weights_N": IMITATED}
OPTIONS = {
    "policy": {},
    "tight clip": {"clip": (0.02, 0.02)},
    "entropy": {"entropy_weight": 0.05},
    "imitation": IMITATION,
    "exact kl": KL,
    "k3 with the exact gradient": {**KL, "kl_value": "k3"},
    "reverse kl": {**KL, "kl_value": "k3", "kl_gradient": "reverse_kl"},
    "k1": {**KL, "kl_value": "k1", "kl_gradient": "k1"},
    "k2": {**KL, "kl_value": "k2", "kl_gradient": "k2"},
    "k3, clamped": {**KL, "kl_value": "k3", "kl_gradient": "k3", "kl_clamp": 0.1},
    "temperature": {**KL, "temperature": 0.8},
    "all": {**KL, **IMITATION, "entropy_weight": 0.05, "softcap": 30.0},
}


def policy_case(options, dtype=torch.float32):
    """heads, (advantages, behaviour), options with the anchor put in."""
    heads = make_heads(N, 67, 16, drift=0.3, dtype=dtype)
    z_NV = (heads.hidden_p.double() @ heads.weight_p.double().T).detach()
    if "softcap" in options:
        z_NV = options["softcap"] * torch.tanh(z_NV / options["softcap"])
    logp_NV = (z_NV / options.get("temperature", 1.0)).log_softmax(-1)
    logprob_N = logp_NV.gather(1, heads.targets[:, None])[:, 0]
    options = dict(options)
    if options.get("reference"):
        options["reference"] = ReferenceHead(*heads.q)
    return heads, (ADVANTAGES, logprob_N - MOVED), options


def textbook(heads, rows, options):
    truth = heads.double()
    options = {"valid_N": VALID, **options}
    if "reference" in options:
        options["reference"] = ReferenceHead(*truth.q)
    return truth, linear_policy_reference(*truth.p, heads.targets, *rows, **options)


@pytest.mark.parametrize(("dtype", "implementation"), PATHS, ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_linear_policy_loss(name, dtype, implementation):
    heads, rows, options = policy_case(OPTIONS[name], dtype)
    ours = linear_policy_loss(
        *heads.p, heads.targets, *rows, valid_N=VALID, implementation=implementation, **options
    )
    truth, expected = textbook(heads, rows, options)
    torch.testing.assert_close(ours.loss.double(), expected, rtol=1e-4, atol=1e-5)
    assert_same_gradients(ours.loss, expected, heads.p, truth.p)


def test_the_loss_is_the_weighted_sum_of_its_parts():
    heads, rows, options = policy_case(OPTIONS["all"])
    found = linear_policy_loss(*heads.p, heads.targets, *rows, valid_N=VALID, **options)
    total = found.policy + 0.1 * found.kl - 0.05 * found.entropy + 0.3 * found.imitation
    torch.testing.assert_close(found.loss.detach(), total)
    assert not any(value.requires_grad for value in found[1:])


def test_a_part_of_weight_0_is_measured_but_not_trained():
    heads, rows, options = policy_case(OPTIONS["all"])
    idle = {"kl_weight": 0.0, "entropy_weight": 0.0, "imitation_weight": 0.0}
    trained = linear_policy_loss(*heads.p, heads.targets, *rows, valid_N=VALID, **options)
    found = linear_policy_loss(*heads.p, heads.targets, *rows, valid_N=VALID, **{**options, **idle})
    assert found.loss == found.policy == trained.policy
    assert (found.kl, found.imitation) == (trained.kl, trained.imitation)
    plain = linear_policy_loss(*heads.p, heads.targets, *rows, valid_N=VALID, softcap=30.0)
    pairs = zip(gradients(found.loss, heads.p), gradients(plain.loss, heads.p), strict=True)
    for ours, expected in pairs:
        assert distance(ours, expected) < 1e-6


def test_clipping_says_which_bound_stopped_which_token():
    heads, rows, _ = policy_case({})
    found = linear_policy_loss(*heads.p, heads.targets, *rows, valid_N=VALID)
    ratio_N = MOVED.exp()
    high_N = VALID & (ADVANTAGES > 0) & (ratio_N > 1.28)
    low_N = VALID & (ADVANTAGES < 0) & (ratio_N < 0.8)
    assert high_N.sum() == 1
    assert low_N.sum() == 1
    torch.testing.assert_close(found.clipped_high, high_N.sum() / VALID.sum())
    torch.testing.assert_close(found.clipped_low, low_N.sum() / VALID.sum())
    dhidden_ND = gradients(found.loss, heads.p)[0]
    still_N = high_N | low_N | ~VALID | (ADVANTAGES == 0)
    assert torch.equal(dhidden_ND.any(dim=1), ~still_N)


def test_behaviour_kl_is_the_mean_k3_of_the_move():
    heads, rows, _ = policy_case({})
    found = linear_policy_loss(*heads.p, heads.targets, *rows, valid_N=VALID)
    expected = (MOVED.exp() - 1 - MOVED)[VALID].mean()
    torch.testing.assert_close(found.behaviour_kl, expected, rtol=1e-4, atol=1e-6)


def test_on_policy_the_gradient_is_the_plain_policy_gradient():
    heads, rows, _ = policy_case({})
    found = linear_policy_loss(*heads.p, heads.targets, ADVANTAGES, rows[1] + MOVED, valid_N=VALID)
    logp_NV = (heads.hidden_p @ heads.weight_p.T).log_softmax(-1)
    logprob_N = logp_NV.gather(1, heads.targets[:, None])[:, 0]
    expected = -(ADVANTAGES * logprob_N)[VALID].sum() / VALID.sum()
    torch.testing.assert_close(found.policy, -ADVANTAGES[VALID].mean(), rtol=1e-4, atol=1e-5)
    pairs = zip(gradients(found.loss, heads.p), gradients(expected, heads.p), strict=True)
    for ours, truth in pairs:
        assert distance(ours, truth) < 1e-4


@pytest.mark.parametrize("behaviour", [-1e4, 0.0])
def test_a_behaviour_far_away_leaves_everything_finite(behaviour):
    heads = make_heads(N, peak=20.0)
    for advantage in (-1.0, 0.0, 1.0):
        advantages_N, behaviour_N = torch.full((N,), advantage), torch.full((N,), behaviour)
        found = linear_policy_loss(*heads.p, heads.targets, advantages_N, behaviour_N)
        assert found.loss.isfinite()
        assert all(grad.isfinite().all() for grad in gradients(found.loss, heads.p))


def test_known_log_probabilities_of_the_anchor():
    heads, rows, options = policy_case(OPTIONS["reverse kl"])
    logq_NV = (heads.hidden_q @ heads.weight_q.T).log_softmax(-1)
    known_N = logq_NV.gather(1, heads.targets[:, None])[:, 0]
    with_head = linear_policy_loss(*heads.p, heads.targets, *rows, valid_N=VALID, **options)
    options = {**options, "reference": None, "reference_logprob_N": known_N}
    found = linear_policy_loss(*heads.p, heads.targets, *rows, valid_N=VALID, **options)
    torch.testing.assert_close(found.loss, with_head.loss, rtol=1e-4, atol=1e-5)
    pairs = zip(gradients(found.loss, heads.p), gradients(with_head.loss, heads.p), strict=True)
    for ours, expected in pairs:
        assert distance(ours, expected) < 1e-3


def test_the_anchor_may_share_the_head():
    heads, rows, options = policy_case(OPTIONS["exact kl"])
    found, expected = (
        linear_policy_loss(
            *heads.p,
            heads.targets,
            *rows,
            valid_N=VALID,
            **{**options, "reference": ReferenceHead(heads.hidden_q, weight)},
        ).loss
        for weight in (None, heads.weight_p.detach())
    )
    torch.testing.assert_close(found, expected)


def test_everything_is_one_call_of_the_statistics(monkeypatch):
    heads, rows, options = policy_case(OPTIONS["all"])
    calls = []
    real = statistics_op._statistics
    monkeypatch.setattr(statistics_op, "_statistics", lambda *a: calls.append(1) or real(*a))
    linear_policy_loss(*heads.p, heads.targets, *rows, valid_N=VALID, **options)
    assert len(calls) == 1


def test_what_rows_outside_the_mask_hold_does_not_matter():
    heads, rows, options = policy_case(OPTIONS["exact kl"])
    expected = linear_policy_loss(*heads.p, heads.targets, *rows, valid_N=VALID, **options)
    spoilt = [torch.where(VALID, row, float("nan")) for row in rows]
    targets_N = torch.where(VALID, heads.targets, -100)
    found = linear_policy_loss(*heads.p, targets_N, *spoilt, valid_N=VALID, **options)
    assert found.loss == expected.loss
    pairs = zip(gradients(found.loss, heads.p), gradients(expected.loss, heads.p), strict=True)
    for ours, truth in pairs:
        assert torch.equal(ours, truth)


def test_nothing_valid_is_zero():
    heads, rows, options = policy_case(KL)
    nothing_N = torch.zeros(N, dtype=torch.bool)
    found = linear_policy_loss(*heads.p, heads.targets, *rows, valid_N=nothing_N, **options)
    assert all(not value.any() for value in found)
    assert all(not grad.any() for grad in gradients(found.loss, heads.p))


def test_normalizers_make_micro_batches_add_up():
    heads, rows, options = policy_case({**IMITATION, "entropy_weight": 0.05})
    whole = linear_policy_loss(*heads.p, heads.targets, *rows, valid_N=VALID, **options).loss
    weights_N = options.pop("imitation_weights_N")
    parts = sum(
        linear_policy_loss(
            heads.hidden_p[part],
            heads.weight_p,
            heads.targets[part],
            *(row[part] for row in rows),
            valid_N=VALID[part],
            normalizer=VALID.sum(),
            imitation_weights_N=weights_N[part],
            imitation_normalizer=weights_N.sum(),
            **options,
        ).loss
        for part in (slice(0, 5), slice(5, N))
    )
    torch.testing.assert_close(parts, whole)


@settings(max_examples=20)
@given(
    valid=st.lists(st.booleans(), min_size=N, max_size=N),
    advantages=st.lists(st.sampled_from([-2.0, -0.5, 0.0, 1.0]), min_size=N, max_size=N),
    clip=st.sampled_from([(0.2, 0.28), (0.03, 0.03), (1.0, 5.0)]),
)
def test_any_mask_and_any_advantages(valid, advantages, clip):
    heads, (_, behaviour_N), _ = policy_case({})
    rows, options = (torch.tensor(advantages), behaviour_N), {"valid_N": torch.tensor(valid)}
    ours = linear_policy_loss(*heads.p, heads.targets, *rows, clip=clip, **options).loss
    truth, expected = textbook(heads, rows, {**options, "clip": clip})
    torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-5)
    assert_same_gradients(ours, expected, heads.p, truth.p)


def test_compiles_to_one_graph():
    heads, rows, options = policy_case(OPTIONS["all"])

    def loss(hidden_ND, weight_VD, targets_N, advantages_N, behaviour_N):
        return linear_policy_loss(
            hidden_ND, weight_VD, targets_N, advantages_N, behaviour_N, valid_N=VALID, **options
        ).loss

    inputs = (*heads.p, heads.targets, *rows)
    assert_same_when_compiled(loss, [(inputs, heads.p)])


ONES = torch.ones(N)
BAD = {
    "advantages of another length": ({"advantages_N": torch.ones(3)}, "advantages: expected shape"),
    "advantages that learn": (
        {"advantages_N": torch.ones(N, requires_grad=True)},
        "advantages: expected constants",
    ),
    "integer behaviour": (
        {"behaviour_logprob_N": torch.ones(N, dtype=torch.int64)},
        "behaviour_logprob: expected a floating dtype",
    ),
    "a clip below 0": ({"clip": (-0.1, 0.2)}, "clip: expected 0 <= low <= 1"),
    "one bound": ({"clip": (0.2,)}, "clip: expected two numbers"),
    "a kl without an anchor": ({"kl_weight": 0.1}, "reference: expected an anchor"),
    "a form without an anchor": ({"kl_value": "k3"}, "reference: expected an anchor"),
    "an exact kl of known log-probabilities": (
        {"reference_logprob_N": ONES},
        "reference: expected the anchor's head",
    ),
    "an unknown form": ({"kl_gradient": "k4"}, "kl_gradient: expected one of"),
    "imitation without weights": ({"imitation_weight": 1.0}, "imitation_weights: expected weights"),
    "a normalizer of no imitation": (
        {"imitation_normalizer": 3.0},
        "imitation_weights: expected weights",
    ),
    "negative imitation": (
        {"imitation_weights_N": -ONES},
        "imitation_weights: expected finite numbers of at least 0",
    ),
    "a negative entropy weight": ({"entropy_weight": -1.0}, "entropy_weight: expected a finite"),
    "a mask of numbers": ({"valid_N": ONES}, "valid: expected dtype torch.bool"),
    "a normalizer of 0": ({"normalizer": 0.0}, "normalizer: expected a finite number above 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    changes, message = BAD[name]
    heads, rows, _ = policy_case({})
    names = ("hidden_ND", "weight_VD", "targets_N", "advantages_N", "behaviour_logprob_N")
    arguments = dict(zip(names, (*heads.p, heads.targets, *rows), strict=True))
    with pytest.raises(ValueError, match=message):
        linear_policy_loss(**{**arguments, **changes})
