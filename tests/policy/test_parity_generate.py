"""Greedy continuation with our caches against transformers' generate, token for token."""

import pytest
import torch

from pixelis_fast.policy.batch import PackedBatch, pack
from pixelis_fast.policy.positions import mrope_positions
from tests.tiny_policy import hf_inputs, hf_twin, make_sample, our_batch
from tests.tiny_policy import tiny_policy as make_policy

NEW_TOKENS = 72
TOLERANCE = 1e-4
PROMPTS = {
    "text": [23],
    "image": [6, ("image", 8, 6), 5],
    "images and video": [3, ("image", 4, 4), 2, ("video", 2, 4, 6), 4, ("image", 2, 6), 6],
}


@pytest.fixture(scope="module")
def pair():
    policy = make_policy(seed=21)
    return policy, hf_twin(policy)


@torch.inference_mode()
def continue_greedily(policy, samples, *, num_tokens):
    """Batched decode of all samples; per sample its new ids and the logits that chose them."""
    caches = [policy.new_cache(capacity=8) for _ in samples]
    batch = pack([our_batch(policy, sample) for sample in samples])
    last = torch.tensor(batch.lengths).cumsum(0) - 1
    logits = policy.logits(policy.hidden(batch, caches)[last])
    positions = [sample.next_position for sample in samples]
    ids, rows = [], []
    for step in range(num_tokens):
        ids.append(logits.argmax(-1))
        rows.append(logits)
        new = [mrope_positions([1], position + step)[0] for position in positions]
        batch = PackedBatch(ids[-1], torch.cat(new, dim=1), [1] * len(samples))
        logits = policy.logits(policy.hidden(batch, caches))
    return torch.stack(ids, dim=1), torch.stack(rows, dim=1)


@pytest.mark.parametrize("pieces", PROMPTS.values(), ids=PROMPTS.keys())
def test_greedy_equals_generate(pair, pieces):
    policy, model = pair
    sample = make_sample(policy.config, pieces, seed=1)
    inputs = hf_inputs([sample])
    expected = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    got, _ = continue_greedily(policy, [sample], num_tokens=NEW_TOKENS)
    assert got[0].tolist() == expected[0, len(sample.ids) :].tolist()
    assert len(set(got[0].tolist())) > 8  # a loop on one token would prove little


def test_mixed_batch_decodes_like_each_alone(pair):
    policy, _ = pair
    samples = [make_sample(policy.config, pieces, seed=2) for pieces in PROMPTS.values()]
    ids, logits = continue_greedily(policy, samples, num_tokens=20)
    for row, sample in enumerate(samples):
        its_ids, its_logits = continue_greedily(policy, [sample], num_tokens=20)
        assert torch.equal(ids[row], its_ids[0])
        assert (logits[row] - its_logits[0]).abs().max() < TOLERANCE


def test_mixed_prefill_and_decode_in_one_batch(pair):
    policy, _ = pair
    first = our_batch(policy, make_sample(policy.config, PROMPTS["image"], seed=3))
    second = our_batch(policy, make_sample(policy.config, PROMPTS["images and video"], seed=4))
    token = PackedBatch(torch.tensor([77]), mrope_positions([1], 40)[0], [1])
    with torch.inference_mode():
        alone, other = policy.new_cache(), policy.new_cache()
        policy.hidden(first, [alone])
        together = [alone.fork(), other.fork()]
        expected = torch.cat([policy.hidden(token, [alone]), policy.hidden(second, [other])])
        got = policy.hidden(pack([token, second]), together)
    torch.testing.assert_close(got, expected, atol=TOLERANCE, rtol=TOLERANCE)
    assert [kv.length for kv in together] == [alone.length, other.length]
