"""Batch-invariant arithmetic: the same bits in any batch, in any pieces, cached or not."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelis_fast.policy.batch import PackedBatch, pack
from pixelis_fast.policy.positions import mrope_positions
from pixelis_fast.policy.weights import random_policy
from tests.tiny_policy import cut, make_sample, our_batch

PIECES = ([41], [5, ("image", 4, 6), 30], [("video", 2, 4, 4), 9], [3])
POLICIES = {
    dtype: random_policy("unit", seed=1, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)
}


def histories(policy):
    return [
        our_batch(policy, make_sample(policy.config, pieces, seed=row))
        for row, pieces in enumerate(PIECES)
    ]


@pytest.mark.parametrize("dtype", POLICIES, ids=str)
@settings(max_examples=12)
@given(data=st.data())
def test_bits_do_not_depend_on_batch_or_pieces(dtype, data):
    policy = POLICIES[dtype]
    with torch.inference_mode():
        batches = histories(policy)
        alone = [policy.hidden(batch, invariant=True) for batch in batches]
        caches = [policy.new_cache(0, invariant=True) for _ in batches]
        done = [[] for _ in batches]
        while waiting := [row for row, batch in enumerate(batches) if left(batch, done[row])]:
            rows = data.draw(st.sets(st.sampled_from(waiting), min_size=1))
            order = sorted(rows, key=lambda row: (row * 7 + len(done[row])) % 5)
            sizes = [data.draw(st.integers(1, left(batches[r], done[r]))) for r in order]
            pieces = [
                cut(batches[row], start := computed(done[row]), start + size)
                for row, size in zip(order, sizes, strict=True)
            ]
            got = policy.hidden(pack(pieces), [caches[row] for row in order], invariant=True)
            for row, hidden in zip(order, got.split(sizes), strict=True):
                done[row].append(hidden)
        for expected, parts in zip(alone, done, strict=True):
            assert torch.equal(torch.cat(parts), expected)
            together = policy.logits(expected, invariant=True)
            one_by_one = [policy.logits(row[None], invariant=True) for row in expected]
            assert torch.equal(together, torch.cat(one_by_one))


def computed(parts) -> int:
    return sum(map(len, parts))


def left(batch, parts) -> int:
    return batch.num_tokens - computed(parts)


def test_it_is_the_plain_arithmetic_up_to_rounding():
    policy = POLICIES[torch.float32]
    batch = pack(histories(policy))
    with torch.inference_mode():
        expected, got = policy.hidden(batch), policy.hidden(batch, invariant=True)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_other_caches_are_refused():
    policy = POLICIES[torch.float32]
    token = PackedBatch(torch.tensor([1]), mrope_positions([1], 0)[0], [1])
    with torch.inference_mode():
        for cache in (policy.new_cache(), shared_cache(policy)):
            with pytest.raises(ValueError, match="expected whole ones of new_cache"):
                policy.hidden(token, [cache], invariant=True)


def shared_cache(policy):
    cache = policy.new_cache(invariant=True)
    cache.advance(3)
    return cache.fork()
