"""corridor: exact KL per token, its summary, and independence of the batch."""

import pytest
import torch

from pixelis_fast.kernels.token_kl import corridor, token_kl
from pixelis_fast.kernels.token_kl.reference import token_kl_reference
from tests.kernels.loss_fixtures import IMPLEMENTATIONS, compiled, make_heads

VALID = torch.tensor([True, True, False, True, True, False, True, True, True])


def report(heads, **options):
    return corridor(*heads.p, *heads.q, **options)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_report_sums_up_the_kl_of_valid_tokens(implementation):
    heads = make_heads(drift=0.2)
    found = report(heads, valid_N=VALID, low=0.15, high=0.25, implementation=implementation)
    truth = heads.double()
    exact_N = token_kl_reference(*truth.p, *truth.q, heads.targets, valid_N=VALID)
    torch.testing.assert_close(found.kl_N.double(), exact_N, rtol=1e-5, atol=1e-7)
    expected_N = token_kl(*heads.p, *heads.q, valid_N=VALID, implementation=implementation).detach()
    kept = expected_N[VALID]
    assert torch.equal(found.kl_N, expected_N)
    torch.testing.assert_close(found.mean, kept.mean())
    assert found.maximum == kept.max()
    torch.testing.assert_close(
        found.quantiles, torch.quantile(kept, torch.tensor([0.5, 0.9, 0.99]))
    )
    sign_N = (expected_N > 0.25).long() - (expected_N < 0.15).long()
    assert torch.equal(found.violation_N.long(), torch.where(VALID, sign_N, 0))
    assert {-1, 0, 1} == set(found.violation_N[VALID].tolist())
    assert found.inside == (sign_N[VALID] == 0).float().mean()


@pytest.mark.parametrize("levels", [(0.0, 1.0), (0.25,), (0.9, 0.1, 0.5), ()], ids=str)
def test_quantiles_are_torchs(levels):
    heads = make_heads(drift=0.2)
    found = report(heads, valid_N=VALID, quantiles=levels)
    kept = found.kl_N[VALID]
    torch.testing.assert_close(found.quantiles, torch.quantile(kept, torch.tensor(levels)))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_token_alone_has_the_bits_it_has_in_a_batch(implementation):
    heads = make_heads(9, 333, 64, drift=0.05)
    together = report(heads, implementation=implementation).kl_N
    for row in range(9):
        rows = slice(row, row + 1)
        alone = corridor(
            heads.hidden_p[rows],
            heads.weight_p,
            heads.hidden_q[rows],
            heads.weight_q,
            implementation=implementation,
        ).kl_N
        assert torch.equal(alone, together[rows])


def test_padding_changes_no_bit_of_the_report():
    heads = make_heads(9, 333, 64, drift=0.05)
    plain = report(heads)
    padded = corridor(
        torch.cat([torch.full((4, 64), 7.0), heads.hidden_p]),
        heads.weight_p,
        torch.cat([torch.zeros(4, 64), heads.hidden_q]),
        heads.weight_q,
        valid_N=torch.arange(13) >= 4,
    )
    assert torch.equal(padded.kl_N[4:], plain.kl_N)
    assert torch.equal(padded.quantiles, plain.quantiles)
    assert (padded.mean, padded.maximum, padded.inside) == (plain.mean, plain.maximum, plain.inside)


@pytest.mark.parametrize("tokens", [9, 0])
def test_nothing_valid_is_all_zero(tokens):
    heads = make_heads(tokens)
    found = report(heads, valid_N=torch.zeros(tokens, dtype=torch.bool))
    assert all(not values.any() for values in found)


def test_equal_heads_have_not_moved():
    heads = make_heads()
    found = corridor(*heads.p, heads.hidden_p, heads.weight_p, low=0.0)
    assert found.maximum == 0
    assert found.inside == 1
    assert not found.violation_N.any()


def test_a_policy_that_learns_is_measured_without_gradient():
    heads = make_heads()
    found = corridor(*heads.p, heads.hidden_p, heads.weight_p)
    assert not any(values.requires_grad for values in found)


def test_compiles_to_one_graph():
    heads = make_heads()

    def measured(*inputs):
        return corridor(*inputs[:4], valid_N=inputs[4])

    inputs = (*heads.p, *heads.q, VALID)
    for ours, expected in zip(compiled(measured)(*inputs), measured(*inputs), strict=True):
        torch.testing.assert_close(ours, expected)


BAD = {
    "a corridor upside down": ({"low": 0.3}, "low: expected at most high = 0.2, got 0.3"),
    "a negative bound": ({"low": -0.1}, "low: expected a finite number of at least 0"),
    "a quantile above 1": ({"quantiles": (0.5, 1.5)}, "quantiles: expected numbers in"),
    "a mask of another length": ({"valid_N": torch.ones(4, dtype=torch.bool)}, "valid: expected s"),
    "a mask of another dtype": ({"valid_N": torch.ones(9)}, "valid: expected dtype torch.bool"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    changes, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        report(make_heads(), **changes)
