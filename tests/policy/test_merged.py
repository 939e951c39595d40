"""A published bank in the base's own matrices: the corrected layers' numbers, for one product."""

import pytest
import torch

from pixelis_fast.policy.adapter_route import apply_by_row
from pixelis_fast.policy.engine import Chunk, Engine, EngineConfig
from pixelis_fast.policy.merged import MergedVersions, projections, version_bytes
from pixelis_fast.policy.model import default_apply
from pixelis_fast.policy.packed import PackedLinears
from pixelis_fast.policy.published import Published
from tests.policy.engine_media import extend, load_picture, opening
from tests.policy.test_adapters import trained
from tests.tiny_policy import tiny_policy

TAIL = [Chunk([60]), Chunk([61, 62])]
PLENTY = 1 << 26


@pytest.fixture
def policy():
    return tiny_policy().requires_grad_(False)


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("base", [default_apply(False), PackedLinears()])
def test_one_product_is_the_corrected_layer(policy, base, rows):
    bank = trained(policy, seed=1)
    versions = MergedVersions(policy, base, byte_budget=PLENTY)
    versions.prepare(bank)
    merged, layered = versions.of(bank), apply_by_row([bank], [rows], base)
    for layer in projections(policy):
        x_ND = torch.randn(rows, layer.weight.shape[1])
        with torch.no_grad():
            torch.testing.assert_close(merged(layer, x_ND), layered(layer, x_ND))
            assert (merged(layer, x_ND) - base(layer, x_ND)).abs().max() > 1e-3
    head = torch.nn.Linear(4, 3, bias=False)
    torch.testing.assert_close(merged(head, torch.ones(rows, 4)), head(torch.ones(rows, 4)))


def test_a_new_bank_is_the_base_bit_for_bit(policy):
    bank = trained(policy, seed=1)
    for pair in bank.pairs.values():
        for b_OR in pair.b_OR:
            b_OR.data.zero_()
    versions = MergedVersions(policy, default_apply(False), byte_budget=PLENTY)
    versions.prepare(bank)
    for layer in projections(policy):
        x_ND = torch.randn(6, layer.weight.shape[1])
        assert torch.equal(versions.of(bank)(layer, x_ND), layer(x_ND))


def test_the_budget_says_how_many_versions_are_kept(policy):
    banks = [trained(policy, seed=seed) for seed in (1, 2, 3)]
    room = version_bytes(policy)
    versions = MergedVersions(policy, default_apply(False), byte_budget=2 * room + room // 2)
    for bank in (*banks, banks[2]):
        versions.prepare(bank)
    assert [versions.of(bank) is not None for bank in banks] == [False, True, True]
    tight = MergedVersions(policy, default_apply(False), byte_budget=room - 1)
    tight.prepare(banks[0])
    assert tight.of(banks[0]) is None


def test_narrow_weights_keep_their_correction_apart(policy):
    """A bfloat16 matrix would round most of it away."""
    bank = trained(policy, seed=1)
    versions = MergedVersions(policy.bfloat16(), default_apply(False), byte_budget=PLENTY)
    versions.prepare(bank)
    assert versions.of(bank) is None


@pytest.mark.parametrize("settings", [{}, {"packed_weights": False}])
def test_a_publish_and_a_rollback_prepare_what_they_serve(policy, settings):
    one, two = (Published.of(trained(policy, seed=seed), f"v{seed}") for seed in (1, 2))
    budget = version_bytes(policy)
    engine = Engine(policy, load_picture, config=EngineConfig(merged_bytes=budget, **settings))
    plain = Engine(policy, load_picture, config=EngineConfig(merged_bytes=0, **settings))
    prompt = opening(policy)
    for each in (engine, plain):
        each.publish_bank(one)
        each.publish_bank(two)
        each.rollback("v1")
    assert engine._forward._merged.of(one.bank) is not None
    assert plain._forward._merged.of(one.bank) is None
    found_V, expected_V = (extend(each, each.open(), prompt, *TAIL) for each in (engine, plain))
    torch.testing.assert_close(found_V, expected_V, atol=1e-4, rtol=1e-4)


def test_other_weights_beneath_end_what_was_merged(policy):
    published = Published.of(trained(policy, seed=1), "v1")
    engine = Engine(policy, load_picture)
    engine.publish_bank(published)
    with torch.no_grad():
        policy.head_weight.add_(0.01)
    engine.publish("new base")
    assert engine._forward._merged.of(published.bank) is None


def test_an_invariant_engine_has_one_order_of_sums(policy):
    published = Published.of(trained(policy, seed=1), "v1")
    engine = Engine(
        policy, load_picture, config=EngineConfig(batch_invariant=True, share_prefix=False)
    )
    engine.publish_bank(published)
    assert engine._forward._merged.of(published.bank) is None


def test_a_budget_below_zero_is_refused():
    with pytest.raises(ValueError, match="merged_bytes: expected >= 0, got -1"):
        EngineConfig(merged_bytes=-1)
