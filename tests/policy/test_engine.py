"""Sessions: extending in pieces, prefixes, re-sent histories, failures that cost nothing."""

import pytest
import torch

from pixelis_fast.policy.engine import Chunk, Engine, VisionSlot
from pixelis_fast.policy.image import Patches, image_patches
from pixelis_fast.policy.limits import PRESET_LIMITS
from pixelis_fast.policy.model import Policy
from pixelis_fast.policy.prefix_cache import PrefixCache
from pixelis_fast.policy.weights import random_policy
from pixelis_fast.spans import Spans

TEXT = list(range(10, 40))


@pytest.fixture
def policy() -> Policy:
    return random_policy("unit", seed=1)


def load_picture(media_id: str) -> Patches:
    seed = int(media_id)
    pixels = torch.randint(0, 256, (64, 96, 3), generator=torch.Generator().manual_seed(seed))
    return image_patches(pixels.to(torch.uint8).numpy(), limits=PRESET_LIMITS["unit"].image)


def opening(policy: Policy, media_id: str = "1") -> Chunk:
    """Text, one picture, text."""
    patches = load_picture(media_id)
    num_tokens = patches.tokens_per_frame
    pads = [policy.config.image_pad] * num_tokens
    slot = VisionSlot(len(TEXT), num_tokens, media_id, 0, patches.grid_thw)
    return Chunk([*TEXT, *pads, 50, 51], (slot,), opens_turn=True)


def run(engine: Engine, *chunks: Chunk) -> torch.Tensor:
    session = engine.open()
    for chunk in chunks:
        logits_BV = engine.extend([session], [chunk], spans=Spans())
    return logits_BV[0]


def test_a_prefix_hit_gives_the_bits_of_a_miss(policy):
    engine = Engine(policy, load_picture)
    missed, hit = run(engine, opening(policy)), run(engine, opening(policy))
    assert (engine.prefixes.misses, engine.prefixes.hits) == (1, 1)
    assert torch.equal(missed, hit)


def test_prefixes_and_caches_change_no_logits(policy):
    chunks = (opening(policy), Chunk([60, 61]), Chunk([62]))
    logits_V = run(Engine(policy, load_picture), *chunks)
    for options in ({"prefix_cache_bytes": 0}, {"vision_cache_bytes": 0}, {"keep_kv": False}):
        other_V = run(Engine(policy, load_picture, **options), *chunks)
        assert (logits_V - other_V).abs().max() < 1e-4, options


def test_resending_prefills_everything_at_each_turn(policy):
    engine = Engine(policy, load_picture, keep_kv=False, vision_cache_bytes=0)
    again = opening(policy, "2")
    run(engine, opening(policy), Chunk([60]), again)
    assert engine.vision.misses == 3
    assert engine.prefixes.misses == 0


def test_an_update_of_the_weights_is_a_miss(policy):
    engine = Engine(policy, load_picture)
    before_V = run(engine, opening(policy))
    with torch.no_grad():
        policy.layers[0].gate_up.weight.mul_(1.5)
    after_V = run(engine, opening(policy))
    assert engine.prefixes.misses == 2
    fresh_V = run(Engine(policy, load_picture), opening(policy))
    # The picture's features are the tower's, which did not change.
    assert torch.equal(after_V, fresh_V)
    assert not torch.equal(after_V, before_V)


def test_prefixes_stay_under_their_budget(policy):
    room_for_one = PrefixCache(policy, byte_budget=1 << 40)
    room_for_one.fork(TEXT, room=0)
    small = PrefixCache(policy, byte_budget=room_for_one.nbytes)
    for ids in (TEXT, [*TEXT[:-1], 99], TEXT):
        small.fork(ids, room=0)
    assert small.nbytes <= room_for_one.nbytes
    assert (small.misses, small.hits) == (3, 0)


def test_a_failed_call_leaves_the_session_as_it_was(policy):
    broken = [True]

    def load(media_id: str) -> Patches:
        if broken:
            raise OSError("the picture cannot be read")
        return load_picture(media_id)

    engine = Engine(policy, load)
    session = engine.open()
    with pytest.raises(OSError, match="cannot be read"):
        engine.extend([session], [opening(policy)], spans=Spans())
    assert (session.cache.length, session.next_position) == (0, 0)
    broken.clear()
    logits_BV = engine.extend([session], [opening(policy)], spans=Spans())
    assert torch.equal(logits_BV[0], run(Engine(policy, load_picture), opening(policy)))


def test_an_empty_chunk_is_refused(policy):
    engine = Engine(policy, load_picture)
    with pytest.raises(ValueError, match="expected at least one token"):
        engine.extend([engine.open()], [Chunk([])], spans=Spans())
