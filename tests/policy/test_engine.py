"""Extending in pieces, prefixes, re-sent histories, failures that cost nothing."""

import pytest
import torch

from pixelis_fast.policy.engine import Chunk, Engine, EngineConfig, VisionSlot
from pixelis_fast.policy.image import Patches
from pixelis_fast.policy.model import Policy
from pixelis_fast.policy.weights import random_policy
from pixelis_fast.spans import Spans
from tests.policy.engine_media import TEXT, extend, load_picture, opening, run

CLOSE = 1e-5


@pytest.fixture
def policy() -> Policy:
    return random_policy("unit", seed=1)


def test_switches_change_no_logits(policy):
    chunks = (opening(policy), Chunk([60, 61]), Chunk([62]))
    logits_V = run(Engine(policy, load_picture), *chunks)
    for switches in (
        {"prefix_cache_bytes": 0},
        {"vision_cache_bytes": 0},
        {"keep_kv": False},
        {"share_prefix": False},
        {"share_prefix": False, "batch_invariant": True},
        {"prefill_chunk": 7},
        {"prefill_chunk": 7, "keep_kv": False},
    ):
        engine = Engine(policy, load_picture, config=EngineConfig(**switches))
        for _ in range(2):
            assert (logits_V - run(engine, *chunks)).abs().max() < CLOSE, switches


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"kv_bytes": 0}, "kv_bytes: expected >= 1 or None, got 0"),
        ({"prefill_chunk": 0}, "prefill_chunk: expected >= 1 or None, got 0"),
        ({"vision_cache_bytes": -1}, "vision_cache_bytes: expected >= 0, got -1"),
        ({"batch_invariant": True}, "share_prefix: expected False with batch_invariant=True"),
    ],
)
def test_config_refuses_what_makes_no_sense(switches, message):
    with pytest.raises(ValueError, match=message):
        EngineConfig(**switches)


def test_resending_prefills_everything_at_each_turn(policy):
    config = EngineConfig(keep_kv=False, vision_cache_bytes=0)
    engine = Engine(policy, load_picture, config=config)
    again = opening(policy, "2")
    run(engine, opening(policy), Chunk([60]), again)
    stats = engine.stats()
    assert (stats.vision_misses, stats.prefix_misses) == (3, 0)
    size = len(again.ids)
    assert (stats.tokens_prefilled, stats.tokens_decoded) == (size + size + 1 + size, 1)


def test_only_the_first_piece_of_a_turn_sends_the_history_again(policy):
    engine = Engine(policy, load_picture, config=EngineConfig(keep_kv=False))
    session, answer = engine.open(), opening(policy, "2")
    extend(engine, session, opening(policy), Chunk([60]))
    before = engine.stats().tokens_prefilled
    got_V = extend(engine, session, *answer.cut(8))
    assert engine.stats().tokens_prefilled - before == 2 * len(answer.ids) + 1
    expected_V = run(Engine(policy, load_picture), opening(policy), Chunk([60]), answer)
    assert (got_V - expected_V).abs().max() < CLOSE


def test_a_policy_made_in_inference_mode_is_served(policy):
    with torch.inference_mode():
        frozen = random_policy("unit", seed=1)
    chunks = (opening(policy), Chunk([60]))
    assert torch.equal(
        run(Engine(frozen, load_picture), *chunks), run(Engine(policy, load_picture), *chunks)
    )


def test_a_failed_call_leaves_the_session_as_it_was(policy):
    broken = [True]

    def load(media_id: str) -> Patches:
        if broken:
            raise OSError("the picture cannot be read")
        return load_picture(media_id)

    engine = Engine(policy, load)
    session = engine.open()
    with pytest.raises(OSError, match="cannot be read"):
        extend(engine, session, opening(policy))
    assert (session.cache.length, session.next_position) == (0, 0)
    broken.clear()
    logits_V = extend(engine, session, opening(policy))
    assert torch.equal(logits_V, run(Engine(policy, load_picture), opening(policy)))


def test_a_failure_in_a_later_piece_keeps_no_earlier_one(policy, monkeypatch):
    engine = Engine(policy, load_picture, config=EngineConfig(prefill_chunk=8))
    session = engine.open()
    extend(engine, session, opening(policy), Chunk([60]))
    before, position = session.cache.length, session.next_position
    calls = []

    def hidden(*args, **kwargs):
        calls.append(None)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return Policy.hidden(policy, *args, **kwargs)

    monkeypatch.setattr(policy, "hidden", hidden)
    with pytest.raises(RuntimeError, match="out of memory"):
        extend(engine, session, opening(policy, "2"))
    assert (session.cache.length, session.next_position) == (before, position)
    monkeypatch.undo()
    got_V = extend(engine, session, Chunk([61]))
    expected_V = run(Engine(policy, load_picture), opening(policy), Chunk([60]), Chunk([61]))
    assert (got_V - expected_V).abs().max() < CLOSE


def test_an_empty_chunk_is_refused(policy):
    engine = Engine(policy, load_picture)
    with pytest.raises(ValueError, match="expected at least one token"):
        engine.extend([engine.open()], [Chunk([])], spans=Spans())


def test_a_picture_of_another_size_is_refused(policy):
    engine = Engine(policy, load_picture)
    slot = VisionSlot(0, 4, "1", 0, (1, 4, 4))
    pads = [policy.config.image_pad] * 4
    with pytest.raises(ValueError, match=r"media 1: expected patches of the grid \(1, 4, 4\)"):
        run(engine, Chunk(pads, (slot,), opens_turn=True))


def test_chunks_are_cut_outside_spans():
    slots = (VisionSlot(3, 4, "1", 0, (1, 4, 4)), VisionSlot(7, 9, "2", 0, (1, 6, 6)))
    chunk = Chunk(list(range(20)), slots, opens_turn=True)
    pieces = chunk.cut(5)
    assert [len(piece.ids) for piece in pieces] == [3, 4, 9, 4]
    whole = Chunk([])
    for piece in pieces:
        whole = whole + piece
    assert whole == chunk
    assert [len(piece.ids) for piece in chunk.cut(16)] == [16, 4]
    assert [len(piece.ids) for piece in chunk.cut(4, first=18)] == [18, 2]
    assert chunk.cut(20) == chunk.cut(4, first=20) == [chunk]
    assert Chunk([]).cut(3) == []
    assert [chunk.whole_spans(n) for n in (2, 3, 6, 7, 10, 99)] == [2, 3, 3, 7, 7, 20]
    for cut in (chunk.before, chunk.after):
        with pytest.raises(ValueError, match="no cut through a vision span, got 5"):
            cut(5)
    with pytest.raises(ValueError, match="num_tokens: expected at least 1, got 0"):
        chunk.cut(0)


def test_embeddings_are_means_of_the_training_forwards_hidden_states(policy):
    engine = Engine(policy, load_picture)
    session = engine.open()
    first, call, answer = opening(policy), Chunk([60, 61, 62]), opening(policy, "2")
    extend(engine, session, first)
    embeddings = [session.take_embedding()]
    extend(engine, session, call, Chunk([63]), answer)
    embeddings.append(session.take_embedding())
    history = first + call + Chunk([63]) + answer
    with torch.inference_mode():
        hidden_ND = policy.hidden(engine.training_batch(history))
    parts = hidden_ND.split([len(first.ids), len(history.ids) - len(first.ids)])
    for got_D, rows_ND in zip(embeddings, parts, strict=True):
        torch.testing.assert_close(got_D, rows_ND.mean(0), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="expected tokens since the last take, got none"):
        session.take_embedding()


@pytest.mark.parametrize("switches", [{"keep_kv": False}, {"prefill_chunk": 5}])
def test_embeddings_do_not_count_a_resent_history(policy, switches):
    chunks = [opening(policy), Chunk([60]), opening(policy, "2")]
    taken = []
    for engine in (
        Engine(policy, load_picture),
        Engine(policy, load_picture, config=EngineConfig(**switches)),
    ):
        session = engine.open()
        extend(engine, session, chunks[0])
        session.take_embedding()
        extend(engine, session, *chunks[1:])
        taken.append(session.take_embedding())
    torch.testing.assert_close(taken[0], taken[1], atol=1e-5, rtol=1e-5)


def test_pictures_are_encoded_ahead_once(policy):
    loaded = []

    def load(media_id: str) -> Patches:
        loaded.append(media_id)
        return load_picture(media_id)

    engine = Engine(policy, load)
    engine.encode_ahead("1")
    engine.encode_ahead("1")
    assert loaded == ["1"]
    logits_V = run(engine, opening(policy))
    assert loaded == ["1"]
    assert torch.equal(logits_V, run(Engine(policy, load_picture), opening(policy)))
    unkept = Engine(policy, load, config=EngineConfig(vision_cache_bytes=0))
    unkept.encode_ahead("2")
    assert loaded == ["1"]


def test_a_publish_parts_prefixes_and_keeps_pictures(policy):
    engine = Engine(policy, load_picture, version="v1")
    before_V = run(engine, opening(policy))
    with torch.no_grad():
        policy.layers[0].gate_up.weight.mul_(1.5)
    engine.publish("v2")
    after_V = run(engine, opening(policy))
    stats = engine.stats()
    assert (stats.prefix_hits, stats.vision_misses, stats.publishes) == (0, 1, 1)
    assert torch.equal(after_V, run(Engine(policy, load_picture), opening(policy)))
    assert not torch.equal(after_V, before_V)


@pytest.mark.parametrize("how", ["no_grad", "data"])
def test_a_publish_of_another_tower_encodes_again(policy, how):
    engine = Engine(policy, load_picture, version="v1")
    run(engine, opening(policy))
    weight = policy.vision.blocks[0].qkv.weight
    with torch.no_grad():
        (weight if how == "no_grad" else weight.data).mul_(1.5)
    engine.publish("v2")
    after_V = run(engine, opening(policy))
    assert engine.stats().vision_misses == 2
    assert torch.equal(after_V, run(Engine(policy, load_picture), opening(policy)))


def test_an_update_without_a_publish_is_a_prefix_miss(policy):
    engine = Engine(policy, load_picture)
    run(engine, opening(policy))
    with torch.no_grad():
        policy.layers[0].gate_up.weight.mul_(1.5)
    after_V = run(engine, opening(policy))
    assert engine.stats().prefix_hits == 0
    assert torch.equal(after_V, run(Engine(policy, load_picture), opening(policy)))


def test_text_before_and_behind_is_shared(policy):
    engine = Engine(policy, load_picture)
    run(engine, opening(policy, "1"))
    got_V = run(engine, opening(policy, "1", question=(70, 71, 72)))
    size = len(opening(policy).ids)
    assert engine.stats().tokens_shared == size - 2
    expected_V = run(Engine(policy, load_picture), opening(policy, question=(70, 71, 72)))
    assert (got_V - expected_V).abs().max() < CLOSE
    run(engine, opening(policy, "2"))
    assert engine.stats().tokens_shared == size - 2 + len(TEXT)


@pytest.mark.parametrize("piece", [5, 40, 1000])
@pytest.mark.parametrize("prefix_bytes", [0, 1 << 26])
def test_what_will_be_computed_is_known_before(policy, piece, prefix_bytes):
    engine = Engine(policy, load_picture, config=EngineConfig(prefix_cache_bytes=prefix_bytes))
    shared = Chunk(list(range(100, 160)), opens_turn=True) + opening(policy)
    for tail in ([5], [5, 6, 7], [9] * 30):
        chunk = shared + Chunk(tail, opens_turn=True)
        session = None
        for part in chunk.cut(piece):
            expected = engine.num_new(part, session=session)
            session = session or engine.open()
            before = engine.stats().tokens_prefilled
            extend(engine, session, part)
            assert engine.stats().tokens_prefilled - before == expected
        assert engine.num_new(chunk, salt="other") == len(chunk.ids)
        assert engine.num_new(Chunk([1, 2]), session=session) == 2
