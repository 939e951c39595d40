"""Attention in parts, joined by log-sum-exps, against the textbook formula over all keys."""

import pytest
import torch

from pixelis_fast.policy import shared_attention
from pixelis_fast.policy.cache import KVCache
from pixelis_fast.policy.config import PRESETS
from pixelis_fast.policy.context import plain_attend
from pixelis_fast.policy.shared_attention import attend, join, textbook
from tests.policy.test_attention import HEAD_DIM, HEADS, KV_HEADS, TOLERANCE, random_qkv
from tests.policy.test_attention import textbook as plain_textbook

CONFIG = PRESETS["unit"].text


def filled(cache: KVCache, num_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Every layer of the cache gets the same random keys and values; returns them."""
    _, keys, values = random_qkv(num_tokens)
    for window in cache.open_window(num_tokens):
        window.write(keys, values)
    cache.advance(num_tokens)
    return keys, values


@pytest.fixture(params=["kernel", "textbook"])
def kernel(request, monkeypatch):
    """The device's kernel, and the form that stands in where a device has none."""
    if request.param == "textbook":
        monkeypatch.setattr(shared_attention, "attend", textbook)


@pytest.mark.parametrize("lengths", [[1, 1, 1], [1, 4, 2], [70, 1, 3]], ids=str)
@pytest.mark.parametrize("tail", [0, 5])
def test_forks_attend_to_all_that_is_theirs(kernel, lengths, tail):
    first = KVCache(CONFIG)
    shared = filled(first, 23)
    caches = [first, first.fork(), KVCache(CONFIG)]
    past = [shared, shared, [torch.empty(0, KV_HEADS, HEAD_DIM)] * 2]
    if tail:
        past = [
            [torch.cat(both) for both in zip(old, filled(cache, tail), strict=True)]
            for old, cache in zip(past, caches, strict=True)
        ]
    qkv = random_qkv(sum(lengths))
    got = plain_attend(lengths, caches, like=qkv[0])(0, *qkv)
    for row, (out, *parts) in enumerate(
        zip(*(tensor.split(lengths) for tensor in (got, *qkv)), strict=True)
    ):
        queries, keys, values = parts
        keys, values = torch.cat([past[row][0], keys]), torch.cat([past[row][1], values])
        expected = plain_textbook(queries, keys, values, causal=True)
        torch.testing.assert_close(out, expected, **TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_parts_join_to_the_whole(dtype):
    queries = torch.randn(1, HEADS, 3, HEAD_DIM, dtype=dtype)
    keys, values = torch.randn(2, 1, KV_HEADS, 40, HEAD_DIM, dtype=dtype)
    # Scores far apart: one part may hold nearly all of the weight.
    keys[:, :, :7] *= 20
    parts = []
    for low, high in ((0, 7), (7, 8), (8, 40)):
        out_1HNF, lse_1HN = attend(queries, keys[:, :, low:high], values[:, :, low:high])
        parts.append((out_1HNF[0].transpose(0, 1), lse_1HN[0].T))
    (out, lse), rest = parts[0], parts[1:]
    for part in rest:
        out, lse = join((out, lse), part)
    whole, whole_lse = textbook(queries.float(), keys.float(), values.float())
    close = TOLERANCE if dtype == torch.float32 else {"atol": 3e-2, "rtol": 3e-2}
    torch.testing.assert_close(out.float(), whole[0].transpose(0, 1), **close)
    torch.testing.assert_close(lse, whole_lse[0].T, **close)


@pytest.mark.parametrize("num_keys", [3, 9])
@pytest.mark.parametrize("is_causal", [False, True])
def test_the_kernel_is_the_textbook(num_keys, is_causal):
    queries = torch.randn(1, HEADS, 3, HEAD_DIM)
    keys, values = torch.randn(2, 1, KV_HEADS, num_keys, HEAD_DIM)
    mask = None
    if is_causal and num_keys > 3:
        mask = torch.full((3, num_keys), -torch.inf).triu_(num_keys - 2)
    causal = is_causal and mask is None
    expected = textbook(queries, keys, values, is_causal=is_causal)
    for form in (attend, textbook):
        got = form(queries, keys, values, mask=mask, is_causal=causal)
        for ours, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(ours, theirs, **TOLERANCE)
