"""Our forward against transformers' Qwen3-VL on random small models, fp32."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelis_fast.policy.batch import pack
from tests.tiny_policy import cut, hf_inputs, hf_twin, make_sample, our_batch, tiny_config
from tests.tiny_policy import tiny_policy as make_policy

TOLERANCE = 1e-4
CASES = {
    "text": [37],
    "one token": [1],
    "one image": [5, ("image", 6, 8), 9],
    "image first and last": [("image", 4, 4), 3, ("image", 2, 10)],
    "several sizes": [3, ("image", 2, 2), 4, ("image", 12, 6), 2, ("image", 4, 14), 6],
    "video": [4, ("video", 3, 4, 6), 8],
    "image and video": [2, ("image", 6, 4), 5, ("video", 2, 6, 4), 3, ("image", 4, 4), 7],
    "video then image": [("video", 2, 4, 4), 1, ("image", 8, 2), 4],
}


@pytest.fixture(scope="module", params=["untied", "tied", "one group", "no groups"])
def pair(request):
    heads = {"one group": (4, 1), "no groups": (4, 4)}.get(request.param, (4, 2))
    policy = make_policy(tiny_config(tied=request.param == "tied", heads=heads), seed=3)
    return policy, hf_twin(policy)


@pytest.mark.parametrize("pieces", CASES.values(), ids=CASES.keys())
def test_logits_equal_transformers(pair, pieces):
    policy, model = pair
    sample = make_sample(policy.config, pieces, seed=5)
    with torch.inference_mode():
        expected = model(**hf_inputs([sample])).logits[0]
        got = policy.logits(policy.hidden(our_batch(policy, sample)))
    assert expected.abs().max() > 1  # a comparison of zeros would pass anything
    assert (got - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("side", ["left", "right"])
def test_packed_batch_equals_padded_batch(pair, side):
    policy, model = pair
    samples = [make_sample(policy.config, pieces, seed=7) for pieces in CASES.values()]
    # transformers takes images and videos of a batch each in one row of pixels.
    with torch.inference_mode():
        expected = model(**hf_inputs(samples, padding_side=side)).logits
        batch = pack([our_batch(policy, sample) for sample in samples])
        got = policy.logits(policy.hidden(batch)).split(batch.lengths)
    for row, logits in zip(expected, got, strict=True):
        kept = row[: len(logits)] if side == "right" else row[-len(logits) :]
        assert (logits - kept).abs().max() < TOLERANCE


def test_positions_equal_transformers(pair):
    policy, model = pair
    for pieces in CASES.values():
        sample = make_sample(policy.config, pieces)
        inputs = hf_inputs([sample])
        names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "video_grid_thw")
        expected, delta = model.model.get_rope_index(
            **{name: inputs[name] for name in names if name in inputs}
        )
        assert torch.equal(sample.positions, expected[:, 0])
        assert sample.next_position == len(sample.ids) + int(delta)


def test_vision_features_of_a_batch_are_those_of_each_image(pair):
    policy, _ = pair
    sample = make_sample(policy.config, CASES["several sizes"])
    with torch.inference_mode():
        together = policy.encode_vision(torch.cat(sample.patches), sample.grids)
        sizes = [t * h * w // 4 for t, h, w in sample.grids]
        for part, patches, grid in zip(
            together.split(sizes), sample.patches, sample.grids, strict=True
        ):
            alone = policy.encode_vision(patches, [grid])
            torch.testing.assert_close(part.embeds_MD, alone.embeds_MD, atol=1e-5, rtol=1e-4)
            for ours, theirs in zip(part.deepstack, alone.deepstack, strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


EVEN = st.integers(1, 5).map(lambda n: 2 * n)
PIECES = st.lists(
    st.one_of(
        st.integers(1, 12),
        st.tuples(st.just("image"), EVEN, EVEN),
        st.tuples(st.just("video"), st.integers(1, 3), EVEN, EVEN),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=25)
@given(samples=st.lists(PIECES, min_size=1, max_size=3), seed=st.integers(0, 99), data=st.data())
def test_any_mix_in_any_chunks(samples, seed, data):
    policy, model = property_pair()
    made = [make_sample(policy.config, pieces, seed=seed) for pieces in samples]
    with torch.inference_mode():
        expected = model(**hf_inputs(made)).logits
        batches = [our_batch(policy, sample) for sample in made]
        full = policy.logits(policy.hidden(pack(batches))).split([b.num_tokens for b in batches])
        for batch, row, logits in zip(batches, expected, full, strict=True):
            assert (logits - row[: batch.num_tokens]).abs().max() < TOLERANCE
            cuts = data.draw(st.sets(st.integers(1, max(1, batch.num_tokens - 1)), max_size=4))
            got = chunked_logits(policy, batch, sorted({0, *cuts, batch.num_tokens}))
            assert (got - logits).abs().max() < TOLERANCE


def chunked_logits(policy, batch, bounds):
    cache = policy.new_cache(capacity=2)
    pieces = [cut(batch, low, high) for low, high in pairwise(bounds)]
    logits = [policy.logits(policy.hidden(piece, [cache])) for piece in pieces]
    assert cache.length == batch.num_tokens
    return torch.cat(logits)


_PAIR = []


def property_pair():
    if not _PAIR:
        policy = make_policy(seed=11)
        _PAIR.append((policy, hf_twin(policy)))
    return _PAIR[0]
