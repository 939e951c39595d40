"""Attention on tiles against its textbook form in float64."""

import pytest
import torch

from pixelis_fast.kernels.attention import attention, has_tiles
from pixelis_fast.kernels.attention.reference import attention_reference

pytestmark = pytest.mark.skipif(not has_tiles(), reason="needs AMX or AVX-512 BF16")

ROUNDING = 4e-3
"""Of bfloat16: what one rounding of the output may move, relative to the whole."""


def problem(batch=1, queries=70, keys=33, width=64, values=48, *, seed=0, scale=1.0):
    torch.manual_seed(seed)
    q = (torch.randn(batch, queries, width) * scale / width**0.5).bfloat16()
    k, v = torch.randn(batch, keys, width).bfloat16(), torch.randn(batch, keys, values).bfloat16()
    return q, k, v


def distance(found, expected):
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("queries", [1, 32, 129])
@pytest.mark.parametrize("keys", [1, 31, 512, 1100])
@pytest.mark.parametrize(("width", "values"), [(64, 64), (96, 40), (256, 64), (8, 8)])
def test_every_size_is_near_float64(queries, keys, width, values):
    tensors = problem(2, queries, keys, width, values)
    expected = attention_reference(*(tensor.double() for tensor in tensors))
    found = attention(*tensors)
    assert found.dtype == torch.bfloat16
    assert distance(found, expected) < ROUNDING


@pytest.mark.parametrize("scale", [0.0, 1.0, 60.0])
def test_flat_and_peaked_scores(scale):
    tensors = problem(1, 140, 1500, 64, 64, scale=scale)
    expected = attention_reference(*(tensor.double() for tensor in tensors))
    assert distance(attention(*tensors), expected) < ROUNDING


def test_a_hidden_key_is_as_if_it_were_not_there():
    q, k, v = problem(1, 40, 700, 64, 32)
    is_seen_M = torch.rand(700) < 0.3
    bias_BM = torch.where(is_seen_M, 0.0, -1e4)[None]
    v[:, ~is_seen_M] = 1e3
    expected = attention(q, k[:, is_seen_M], v[:, is_seen_M])
    assert distance(attention(q, k, v, bias_BM), expected.double()) < ROUNDING


def test_a_bias_weighs():
    q, k, v = problem(2, 40, 90)
    bias_BM = torch.randn(2, 90)
    doubles = (tensor.double() for tensor in (q, k, v, bias_BM))
    assert distance(attention(q, k, v, bias_BM), attention_reference(*doubles)) < ROUNDING


def test_a_row_does_not_depend_on_its_neighbours_or_on_threads():
    q, k, v = problem(1, 300, 600, 64, 64)
    whole = attention(q, k, v)
    torch.testing.assert_close(attention(q[:, 100:101], k, v), whole[:, 100:101], rtol=0, atol=0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.equal(attention(q, k, v), whole)
    finally:
        torch.set_num_threads(before)


def test_strided_rows_are_read():
    q, k, v = problem(1, 50, 60, 64, 64)
    both = torch.cat((k, v), dim=-1)
    assert torch.equal(attention(q, both[..., :64], both[..., 64:]), attention(q, k, v))


def test_nan_is_not_hidden():
    q, k, v = problem()
    k[0, 5, 3] = torch.nan
    assert attention(q, k, v).isnan().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, k, v: (q.float(), k, v), "queries_BTC: expected 3 dimensions of bfloat16"),
        (lambda q, k, v: (q[..., :8], k, v), "queries_BTC: expected"),
        (lambda q, k, v: (q, k[:, :0], v[:, :0]), "keys_BMC: expected at least one key"),
        (lambda q, k, v: (q, k, v[:, :5]), "values_BMV: expected"),
        (lambda q, k, v: (q, k, v, torch.zeros(3, 3)), "bias_BM: expected"),
    ],
)
def test_wrong_shapes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        attention(*change(*problem()))
