"""Cheaper copies: close where the gate says so, refused where they are not."""

import pytest
import torch

from pixelis_fast.policy.agreement import AgreementError, Gate, agreement
from pixelis_fast.policy.engine import Chunk, Engine
from pixelis_fast.policy.model import Policy
from pixelis_fast.policy.packed import PackedLinears, pack_weight
from pixelis_fast.policy.quantize import (
    Int8Linear,
    cast_policy,
    quantize_policy,
    refresh_quantized,
)
from pixelis_fast.policy.weights import random_policy
from tests.policy.engine_media import extend, load_picture, opening
from tests.tiny_policy import tiny_config
from tests.tiny_policy import tiny_policy as make_policy

LOOSE = Gate(min_cosine=0.99, min_argmax=0.8)
"""Wide random weights make every rounding larger."""


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def policy(request) -> Policy:
    return make_policy(tiny_config(tied=request.param), seed=71)


@pytest.fixture(scope="module")
def probes(policy):
    return [Engine(policy, load_picture).training_batch(opening(policy, str(n))) for n in (1, 2)]


def quantized(policy, probes) -> Policy:
    return quantize_policy(cast_policy(policy, probes, gate=LOOSE), probes, gate=LOOSE)


@pytest.mark.parametrize("num_rows", [1, 8, 9, 40])
def test_an_int8_product_is_that_of_its_expanded_weights(num_rows):
    source = torch.nn.Linear(64, 48, bias=False).bfloat16()
    with torch.no_grad():
        source.weight[3] = 0
    small = Int8Linear(source)
    x_ND = torch.randn(num_rows, 64).bfloat16()
    expanded_ID = small.weight_int8_ID.float() * small.scale_I.float()[:, None]
    expected = x_ND.float() @ expanded_ID.T
    torch.testing.assert_close(small(x_ND).float(), expected, atol=2e-2, rtol=2e-2)
    step_I = source.weight.detach().float().abs().amax(1) / 127
    apart_ID = (expanded_ID - source.weight.detach().float()).abs()
    # bf16 scales: the largest entry is off by up to its rounding, others by half a step.
    assert (apart_ID <= step_I[:, None] * 1.1 + 1e-6).all()
    assert (small(x_ND)[:, 3] == 0).all()


def test_an_engine_decodes_with_a_cheaper_copy(policy, probes):
    chunks = [opening(policy), *(Chunk([60 + step]) for step in range(3))]
    engine = Engine(policy, load_picture)
    expected_V = extend(engine, engine.open(), *chunks)
    for cheaper in (cast_policy(policy, probes, gate=LOOSE), quantized(policy, probes)):
        other = Engine(cheaper, load_picture)
        got_V = extend(other, other.open(), *chunks)
        assert torch.cosine_similarity(got_V, expected_V, dim=0) > 0.99
        assert not torch.equal(got_V, expected_V)


def test_only_the_matrices_are_new(policy, probes):
    half = cast_policy(policy, probes, gate=LOOSE)
    small = quantize_policy(half, probes, gate=LOOSE)
    assert small.embed_tokens.weight is half.embed_tokens.weight
    assert small.vision.patch_embed.weight is half.vision.patch_embed.weight
    assert not isinstance(half.layers[0].down, Int8Linear)
    assert isinstance(small.lm_head, Int8Linear) or small.lm_head is None
    assert agreement(half, small, probes).cosine > 0.99


def test_the_gate_refuses_what_disagrees(policy, probes):
    half = cast_policy(policy, probes, gate=LOOSE)
    with pytest.raises(AgreementError, match=r"expected a cosine of at least 0\.99"):
        quantize_policy(half, probes, original=make_policy(policy.config, seed=72), gate=LOOSE)
    with pytest.raises(AgreementError, match="cheaper policy"):
        cast_policy(policy, probes, gate=Gate(min_cosine=1.0))
    with pytest.raises(ValueError, match=r"expected bfloat16, got torch\.float32"):
        quantize_policy(policy, probes)
    with pytest.raises(ValueError, match="probes: expected at least one"):
        cast_policy(policy, [])


def test_a_copy_follows_its_policy(policy, probes):
    half = cast_policy(policy, probes, gate=LOOSE)
    small = quantize_policy(half, probes, gate=LOOSE)
    with torch.no_grad():
        half.layers[1].gate_up.weight.mul_(-1)
    assert agreement(half, small, probes).cosine < 0.99
    refresh_quantized(small, half)
    assert agreement(half, small, probes).cosine > 0.99


def test_the_default_gate_passes_ordinary_weights():
    policy = random_policy("unit", seed=3)
    engine = Engine(policy, load_picture)
    probes = [engine.training_batch(opening(policy))]
    half = cast_policy(policy, probes)
    found = agreement(policy, quantize_policy(half, probes, original=policy), probes)
    assert found.cosine > 0.999
    assert found.argmax == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("num_rows", [1, 4, 7, 64])
def test_packed_products_are_the_plain_ones(dtype, num_rows):
    layer = torch.nn.Linear(96, 40, bias=False, dtype=dtype)
    x_ND = torch.randn(num_rows, 96, dtype=dtype)
    packed = PackedLinears()
    close = {"atol": 1e-5, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.02, "rtol": 0.02}
    with torch.inference_mode():
        torch.testing.assert_close(packed(layer, x_ND), layer(x_ND), **close)
        layer.weight.mul_(-2)
        torch.testing.assert_close(packed(layer, x_ND), layer(x_ND), **close)
    assert packed.nbytes == (layer.weight.nbytes if num_rows >= 4 else 0)


def test_a_packing_that_multiplies_wrongly_is_refused(monkeypatch):
    class Wrong:
        _mkl_reorder_linear_weight = staticmethod(torch.ops.mkl._mkl_reorder_linear_weight)
        _mkl_linear = staticmethod(lambda x, packed, weight, bias, rows: x @ weight.T * 1.01)

    weight = torch.randn(40, 96)
    pack_weight(weight)
    monkeypatch.setattr(torch.ops, "mkl", Wrong)
    with pytest.raises(RuntimeError, match="packed product: expected the plain one"):
        pack_weight(weight)
