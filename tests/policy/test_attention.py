"""Packed attention against the textbook formula, and the flash path's calls."""

import pytest
import torch

from pixelis_fast.policy import attention
from pixelis_fast.policy.attention import (
    FlashChoice,
    Packing,
    cache_masks,
    cached_attention,
    causal_attention,
    flash_varlen,
    segment_attention,
)
from pixelis_fast.policy.cache import KVCache
from pixelis_fast.policy.config import PRESETS

TOLERANCE = {"atol": 1e-5, "rtol": 1e-4}
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 16
LENGTHS = [[1], [7], [3, 1, 5], [4, 4, 4, 2, 2]]


def textbook(queries, keys, values, *, causal):
    """One sequence (N, H, F) on (T, K, F), each key/value head repeated for its group."""
    group = queries.shape[1] // keys.shape[1]
    keys, values = (tensor.repeat_interleave(group, 1) for tensor in (keys, values))
    scores = torch.einsum("nhf,thf->hnt", queries, keys) / queries.shape[-1] ** 0.5
    if causal:
        hidden = torch.ones(scores.shape[1:], dtype=torch.bool).triu(len(keys) - len(queries) + 1)
        scores = scores.masked_fill(hidden, -torch.inf)
    return torch.einsum("hnt,thf->nhf", scores.softmax(-1), values)


def packed_textbook(qkv, lengths, *, causal):
    parts = zip(*(tensor.split(lengths) for tensor in qkv), strict=True)
    return torch.cat([textbook(*part, causal=causal) for part in parts])


def fake_flash(q, k, v, *, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal):
    """flash_attn_varlen_func's signature over the textbook."""
    lengths = cu_seqlens_q.diff().tolist()
    assert cu_seqlens_q.dtype == torch.int32
    assert torch.equal(cu_seqlens_q, cu_seqlens_k)
    assert max_seqlen_q == max_seqlen_k == max(lengths)
    return packed_textbook((q, k, v), lengths, causal=causal)


def random_qkv(num_tokens, kv_heads=KV_HEADS):
    shapes = [(num_tokens, heads, HEAD_DIM) for heads in (HEADS, kv_heads, kv_heads)]
    return [torch.randn(shape) for shape in shapes]


@pytest.fixture(params=["sdpa", "flash"])
def pack(request, monkeypatch):
    if request.param == "flash":
        monkeypatch.setattr(attention, "flash_varlen", lambda: FlashChoice(fake_flash, "a fake"))
        monkeypatch.setattr(attention, "_flash_for", lambda tensor: fake_flash)
    return Packing.of


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_causal_attention(pack, lengths):
    qkv = random_qkv(sum(lengths))
    got = causal_attention(*qkv, packing=pack(lengths, qkv[0]))
    torch.testing.assert_close(got, packed_textbook(qkv, lengths, causal=True), **TOLERANCE)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_segment_attention(pack, lengths):
    qkv = random_qkv(sum(lengths), kv_heads=HEADS)
    got = segment_attention(*qkv, packing=pack(lengths, qkv[0]))
    torch.testing.assert_close(got, packed_textbook(qkv, lengths, causal=False), **TOLERANCE)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("cached", [0, 1, 9])
def test_cached_attention(lengths, cached):
    config = PRESETS["unit"].text
    caches = [KVCache(config, capacity=4) for _ in lengths]
    past = [random_qkv(cached)[1:] for _ in lengths]
    for kv, old in zip(caches, past, strict=True):
        kv.open_window(cached)[0].write(*old)
        kv.advance(cached)
    masks = cache_masks(lengths, caches, device=torch.device("cpu"), dtype=torch.float32)
    windows = [kv.open_window(n)[0] for kv, n in zip(caches, lengths, strict=True)]
    qkv = random_qkv(sum(lengths))
    got = cached_attention(*qkv, lengths=lengths, windows=windows, masks=masks)

    for row, parts in enumerate(zip(*(t.split(lengths) for t in (got, *qkv)), strict=True)):
        its_output, queries, keys, values = parts
        keys, values = torch.cat([past[row][0], keys]), torch.cat([past[row][1], values])
        expected = textbook(queries, keys, values, causal=True)
        torch.testing.assert_close(its_output, expected, **TOLERANCE)


def test_flash_choice_says_why():
    assert flash_varlen().run is None or torch.cuda.is_available()
    assert flash_varlen().reason
