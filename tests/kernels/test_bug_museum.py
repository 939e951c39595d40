"""Bugs that other people's fused losses had, one test each, with where each was reported.

Every exhibit runs on each implementation; "triton" on CPU tensors is the interpreter.
"""

import numpy as np
import pytest
import torch

from pixelis_fast.kernels.linear_loss import linear_statistics
from pixelis_fast.kernels.linear_loss.reference import reference_statistics
from pixelis_fast.kernels.masked_imitation import masked_imitation_loss
from pixelis_fast.kernels.masked_imitation.reference import masked_imitation_reference
from pixelis_fast.kernels.token_kl import token_kl
from pixelis_fast.kernels.token_kl.reference import token_kl_reference
from tests.kernels.loss_fixtures import (
    IMPLEMENTATIONS,
    assert_same_gradients,
    distance,
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


def assert_same_imitation(heads, implementation, *rows, upstream=1.0, **options):
    truth = heads.double()
    ours = masked_imitation_loss(*heads.p, *rows, implementation=implementation, **options).loss
    expected = masked_imitation_reference(*truth.p, *rows, **options)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-5)
    assert_same_gradients(ours * upstream, expected * upstream, heads.p, truth.p)


def test_upstream_gradients_that_differ_per_token(implementation):
    """Liger-Kernel #968, #1298: every token's gradient was scaled by grad_output[0]."""
    heads = small()
    upstream = torch.tensor([0.0, 1.0, -3.0, 0.5, 10.0])
    assert_same_imitation(heads, implementation, heads.targets, reduction="none", upstream=upstream)


def test_weights_belong_to_tokens_not_to_classes(implementation):
    """Liger-Kernel #338, #873; torch's own `weight` is one number per class."""
    heads = small()
    heads = heads._replace(targets=torch.full((5,), 7))
    assert_same_imitation(heads, implementation, heads.targets, WEIGHTS)


def test_all_tokens_ignored(implementation):
    """Liger-Kernel #678; torch's mean over nothing is NaN."""
    heads = small()
    nothing_N = torch.full_like(heads.targets, -100)
    loss = masked_imitation_loss(*heads.p, nothing_N, implementation=implementation).loss
    assert loss == 0
    assert all(torch.equal(grad, torch.zeros_like(grad)) for grad in gradients(loss, heads.p))


def test_only_the_last_turn_supervised(implementation):
    """unsloth #5230: gradients were all zero under a mask of the last assistant's turn."""
    heads = make_heads(9)
    targets_N = torch.where(torch.arange(9) >= 7, heads.targets, -100)
    assert_same_imitation(heads, implementation, targets_N)
    loss = masked_imitation_loss(*heads.p, targets_N, implementation=implementation).loss
    assert torch.equal(gradients(loss, heads.p)[0].any(dim=1), torch.arange(9) >= 7)


@pytest.mark.parametrize("vocabulary", [1, 67, 129, 257])
def test_no_columns_beyond_the_vocabulary(vocabulary, implementation):
    """verl #2656, #2899: columns past a ragged vocabulary counted as exp(0), log p rose above 0."""
    hidden_ND = torch.full((3, 8), 1.0, requires_grad=True)
    weight_VD = torch.full((vocabulary, 8), -5.0, requires_grad=True)
    targets_N = torch.tensor([0, vocabulary // 2, vocabulary - 1])
    found = linear_statistics(
        hidden_ND, weight_VD, targets_N, differentiate=("logprob",), implementation=implementation
    )
    expected = -torch.full((3,), float(np.log(vocabulary)))
    torch.testing.assert_close(found.logprob.detach(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.lse, expected.neg() - 40, rtol=1e-5, atol=1e-5)
    dhidden_ND, dweight_VD = gradients(found.logprob, (hidden_ND, weight_VD))
    assert dhidden_ND.abs().max() < 1e-4
    assert dweight_VD.sum().abs() < 1e-4


@pytest.mark.parametrize("logit", [-1e4, -300.0])
def test_strongly_negative_logits(logit, implementation):
    """SkyRL #2141: a running maximum that started at 0 gave NaN."""
    heads = small()
    hidden_ND = torch.cat([heads.hidden_p.detach(), torch.ones(5, 8)], dim=1)
    weight_VD = torch.cat([heads.weight_p.detach(), torch.full((67, 8), logit / 8)], dim=1)
    heads = heads._replace(hidden_p=hidden_ND.requires_grad_(), weight_p=weight_VD.requires_grad_())
    found = masked_imitation_loss(*heads.p, heads.targets, implementation=implementation)
    plain = masked_imitation_loss(*small().p, heads.targets, implementation=implementation)
    # Adding a constant to every logit changes none of them but the rounding of its size.
    torch.testing.assert_close(found.loss, plain.loss, rtol=0, atol=abs(logit) * 1e-6)
    assert all(grad.isfinite().all() for grad in gradients(found.loss, heads.p))


@pytest.mark.parametrize("gap", [5.0, 12.0, 20.0, 40.0])
def test_a_target_of_probability_one(gap, implementation):
    """Liger-Kernel #1268, #1329: p rounded before p - 1 lost the whole gradient."""
    hidden_ND = torch.zeros(1, 8)
    hidden_ND[0, 0] = 1.0
    weight_VD = torch.zeros(67, 8)
    weight_VD[:, 1:] = torch.randn(67, 7)
    weight_VD[3, 0] = gap
    heads = small()._replace(
        hidden_p=hidden_ND.requires_grad_(),
        weight_p=weight_VD.requires_grad_(),
        targets=torch.tensor([3]),
    )
    truth = heads.double()
    loss = masked_imitation_loss(*heads.p, heads.targets, implementation=implementation).loss
    others = 66 * np.exp(-gap)
    assert loss.item() == pytest.approx(np.log1p(others), rel=1e-5)
    expected = -reference_statistics(*truth.p, heads.targets).logprob
    pairs = zip(gradients(loss, heads.p), gradients(expected, truth.p), strict=True)
    for ours, exact in pairs:
        # float64 itself loses p - 1 at the largest gap: its 66 others there are 3e-16.
        assert distance(ours, exact) < (1e-4 if gap < 40 else 1.0)
    assert gradients(loss, heads.p)[1][3, 0].item() == pytest.approx(
        -others / (1 + others), rel=1e-4
    )


def test_the_gradient_of_the_entropy_is_there(implementation):
    """TRL's chunked log-probabilities returned an entropy whose gradient backward ignored."""
    heads = small()
    truth = heads.double()
    upstream = torch.arange(1.0, 6.0)
    ours_N = linear_statistics(
        *heads.p, heads.targets, differentiate=("entropy",), implementation=implementation
    ).entropy
    expected_N = reference_statistics(*truth.p, heads.targets).entropy
    assert_same_gradients(ours_N * upstream, expected_N * upstream, heads.p, truth.p)
    assert all(grad.any() for grad in gradients(ours_N, heads.p))


def test_an_identical_teacher_teaches_nothing(implementation):
    """TRL #5731: a distillation loss silently mixed in cross-entropy at another temperature."""
    heads = small()
    teacher = tuple(tensor.detach().clone() for tensor in heads.p)
    options = {"temperature": 2.0, "implementation": implementation}
    kl_N = token_kl(*heads.p, *teacher, heads.targets, **options)
    assert not kl_N.any()
    assert all(not grad.any() for grad in gradients(kl_N, heads.p))


def test_the_temperature_reaches_both_heads(implementation):
    """TRL #5731, the other half: what was trained ran at a temperature nobody had set."""
    heads = small(drift=0.3)
    truth = heads.double()
    ours_N = token_kl(*heads.p, *heads.q, temperature=2.0, implementation=implementation)
    expected_N = token_kl_reference(*truth.p, *truth.q, heads.targets, temperature=2.0)
    torch.testing.assert_close(ours_N.double(), expected_N, rtol=1e-3, atol=1e-7)
    assert_same_gradients(ours_N, expected_N, heads.p, truth.p)


def test_a_weight_of_zero_is_an_ignored_token(implementation):
    """Nobody fuses weights, so nobody says what 0 means: here both are the same bits."""
    heads = small()
    ignored_N = heads.targets.masked_fill(WEIGHTS == 0, -100)
    found, expected = (
        masked_imitation_loss(*heads.p, targets_N, WEIGHTS, implementation=implementation).loss
        for targets_N in (heads.targets, ignored_N)
    )
    assert found == expected
    pairs = zip(gradients(found, heads.p), gradients(expected, heads.p), strict=True)
    assert all(torch.equal(ours, truth) for ours, truth in pairs)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_weight_of_eight_is_a_token_eight_times(reduction, implementation):
    """cut-cross-entropy filters before the upstream gradient: a weight is invisible to it."""
    heads = small()
    times_N = torch.tensor([1, 8, 1, 1, 8])
    weighted = masked_imitation_loss(
        *heads.p,
        heads.targets,
        times_N.float(),
        reduction=reduction,
        implementation=implementation,
    ).loss
    repeated = masked_imitation_loss(
        heads.hidden_p.repeat_interleave(times_N, dim=0),
        heads.weight_p,
        heads.targets.repeat_interleave(times_N),
        reduction=reduction,
        implementation=implementation,
    ).loss
    torch.testing.assert_close(weighted, repeated)
    pairs = zip(gradients(weighted, heads.p), gradients(repeated, heads.p), strict=True)
    for ours, truth in pairs:
        assert distance(ours, truth) < 1e-5


def test_probabilities_below_a_filters_threshold_keep_their_gradient(implementation):
    """cut-cross-entropy drops tiles whose entries are all below 2^-12, whatever they add up to."""
    hidden_ND = torch.zeros(2, 8)
    hidden_ND[:, 0] = 1.0
    weight_VD = 0.1 * torch.randn(333, 8)
    weight_VD[5, 0] = 15.0
    heads = small()._replace(
        hidden_p=hidden_ND.requires_grad_(),
        weight_p=weight_VD.requires_grad_(),
        targets=torch.tensor([5, 5]),
    )
    truth = heads.double()
    loss = masked_imitation_loss(*heads.p, heads.targets, implementation=implementation).loss
    expected = masked_imitation_reference(*truth.p, heads.targets)
    others_V = torch.arange(333) != 5
    assert -torch.expm1(-expected) < 333 * 2**-12
    ours, exact = gradients(loss, heads.p)[1], gradients(expected, truth.p)[1]
    assert distance(ours[others_V], exact[others_V]) < 1e-4


def test_the_gradient_of_the_kl_is_its_gradient(implementation):
    """helion's fused_linear_jsd example: cosine 0.87 and norm 1.49 against autograd."""
    heads = small(drift=0.5)
    truth = heads.double()
    ours = gradients(token_kl(*heads.p, *heads.q, implementation=implementation), heads.p)
    expected = gradients(token_kl_reference(*truth.p, *truth.q, heads.targets), truth.p)
    for found, exact in zip(ours, expected, strict=True):
        flat, exact = found.double().flatten(), exact.flatten()
        assert torch.cosine_similarity(flat, exact, dim=0) > 1 - 1e-8
        assert flat.norm() / exact.norm() == pytest.approx(1, abs=1e-4)


# The interpreter truncates where it stores bfloat16, which is an error of this size by itself.
@pytest.mark.parametrize("implementation", ["cpu"])
def test_gradients_of_the_head_add_up_in_float32(implementation):
    """Liger-Kernel adds 32 chunks in bfloat16, verl the gradient of hidden: 6.5e-3 of error."""
    heads = make_heads(300, 67, 16, dtype=torch.bfloat16, peak=1.0)
    truth = heads.double()
    loss = masked_imitation_loss(*heads.p, heads.targets, implementation=implementation).loss
    expected = masked_imitation_reference(*truth.p, heads.targets)
    # Rounding the exact answer to bfloat16 costs 1.7e-3.
    for ours, exact in zip(gradients(loss, heads.p), gradients(expected, truth.p), strict=True):
        assert distance(ours, exact) < 3.5e-3


def test_logits_are_never_rounded_to_bfloat16(implementation):
    """Most peers store bfloat16 logits: the loss is off by up to 3e-2 nats at logits of 27."""
    heads = small(dtype=torch.bfloat16, peak=12.0)
    truth = heads.double()
    found = linear_statistics(*heads.p, heads.targets, implementation=implementation)
    expected = reference_statistics(*truth.p, heads.targets)
    assert (found.logprob - expected.logprob).abs().max() < 1e-4


def test_a_small_kl_is_neither_negative_nor_noise(implementation):
    """lse_q - lse_p + sum p (z_p - z_q) in float32 is 39 % wrong at 2e-6 nats, and may be < 0."""
    heads = small(drift=1e-3, peak=2.0)
    truth = heads.double()
    ours_N = token_kl(*heads.p, *heads.q, implementation=implementation)
    expected_N = token_kl_reference(*truth.p, *truth.q, heads.targets)
    assert 1e-7 < expected_N.mean() < 1e-5
    assert (ours_N >= 0).all()
    assert distance(ours_N, expected_N) < 1e-3


def test_k3_of_an_impossible_token_is_held_by_the_clamp(implementation):
    """verl clamps because e^-r overflows where the reference finds a token impossible."""
    heads = small(drift=3.0, peak=60.0)
    kl_N = token_kl(
        *heads.p,
        *heads.q,
        heads.targets,
        value="k3",
        gradient="k3",
        clamp=10.0,
        implementation=implementation,
    )
    ratio_N = token_kl(
        *heads.p, *heads.q, heads.targets, value="k1", implementation=implementation
    ).detach()
    assert ratio_N.abs().max() > 90
    assert kl_N.isfinite().all()
    assert all(grad.isfinite().all() for grad in gradients(kl_N, heads.p))
