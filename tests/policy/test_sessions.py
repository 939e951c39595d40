"""Forks, eviction and the byte budget: what is shared, what moves, what is refused."""

import gc
import weakref

import pytest
import torch

from pixelis_fast.policy.cache import ROOM
from pixelis_fast.policy.engine import Chunk, Engine, EngineConfig, KVBudgetError
from pixelis_fast.policy.model import Policy
from pixelis_fast.policy.weights import random_policy
from pixelis_fast.spans import Spans
from tests.policy.engine_media import extend, load_picture, opening

CLOSE = 1e-5
PROMPT = Chunk(list(range(100, 250)), opens_turn=True)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return random_policy("unit", seed=1)


@pytest.fixture(params=[True, False], ids=["shared", "copied"])
def engine(request, policy) -> Engine:
    return Engine(policy, load_picture, config=EngineConfig(share_prefix=request.param))


def alone(policy: Policy, *chunks: Chunk) -> torch.Tensor:
    engine = Engine(policy, load_picture, config=EngineConfig(prefix_cache_bytes=0))
    return extend(engine, engine.open(), *chunks)


def open_group(engine: Engine, size: int, prompt: Chunk = PROMPT) -> list:
    first = engine.open()
    extend(engine, first, prompt)
    return [first, *(engine.fork(first) for _ in range(size - 1))]


def test_a_group_decodes_like_each_alone(engine, policy):
    group = open_group(engine, 3, opening(policy) + PROMPT)
    tails = [[Chunk([20 + member]), opening(policy, str(member))] for member in range(3)]
    for step in range(2):
        logits_BV = engine.extend(group, [tail[step] for tail in tails], spans=Spans())
    for tail, logits_V in zip(tails, logits_BV, strict=True):
        expected_V = alone(policy, opening(policy) + PROMPT, *tail)
        assert (logits_V - expected_V).abs().max() < CLOSE
    assert engine.stats().forks == 2


def test_a_mixed_batch_of_groups_and_others(engine, policy):
    prompts = [PROMPT, Chunk(PROMPT.ids[::-1], opens_turn=True), Chunk([7, 8, 9], opens_turn=True)]
    groups = [open_group(engine, size, p) for size, p in zip((2, 3, 1), prompts, strict=True)]
    # Interleaved: members of a group are not neighbours in the batch.
    order = [(0, 0), (1, 0), (2, 0), (1, 1), (0, 1), (1, 2)]
    chunks = [Chunk([30 + row] * (1 + row % 3)) for row in range(len(order))]
    sessions = [groups[group][member] for group, member in order]
    logits_BV = engine.extend(sessions, chunks, spans=Spans())
    for (group, _), chunk, logits_V in zip(order, chunks, logits_BV, strict=True):
        assert (logits_V - alone(policy, prompts[group], chunk)).abs().max() < CLOSE


def test_forks_of_forks(engine, policy):
    first = open_group(engine, 1)[0]
    long_tail, short_tail = Chunk(list(range(300, 400))), Chunk([5, 6, 7])
    extend(engine, first, long_tail)
    second = engine.fork(first)
    extend(engine, second, short_tail)
    third = engine.fork(second)
    extend(engine, second, Chunk([8]))
    got_V = extend(engine, third, Chunk([9]))
    assert (got_V - alone(policy, PROMPT, long_tail, short_tail, Chunk([9]))).abs().max() < CLOSE
    got_V = extend(engine, first, Chunk([9]))
    assert (got_V - alone(policy, PROMPT, long_tail, Chunk([9]))).abs().max() < CLOSE


def test_a_shared_prefix_is_held_once_and_freed_with_its_last_user(policy):
    engine = Engine(policy, load_picture, config=EngineConfig(prefix_cache_bytes=0))
    group = open_group(engine, 4)
    [segment] = group[0].cache.prefix
    assert all(member.cache.prefix[0] is segment for member in group)
    per_token = group[0].cache.bytes_per_token
    assert engine.stats().kv_bytes == (len(PROMPT.ids) + ROOM) * per_token
    freed = weakref.ref(segment)
    del segment
    for member in group[:-1]:
        engine.close(member)
    assert freed() is not None
    engine.close(group[-1])
    gc.collect()
    assert freed() is None
    assert (engine.stats().kv_bytes, engine.stats().sessions) == (0, 0)


def test_a_dropped_session_costs_nothing(engine):
    open_group(engine, 2)
    gc.collect()
    assert (engine.stats().sessions, engine.stats().kv_bytes) == (0, 0)


@pytest.mark.parametrize("invariant", [False, True])
def test_an_evicted_session_goes_on_without_computing_again(policy, invariant):
    config = EngineConfig(share_prefix=not invariant, batch_invariant=invariant)
    engine = Engine(policy, load_picture, config=config)
    twin, session = open_group(engine, 2)
    for member in (twin, session):
        extend(engine, member, Chunk([60]))
    held = engine.stats().kv_bytes
    engine.evict(session)
    engine.evict(session)
    stats = engine.stats()
    assert (stats.evictions, stats.evicted_sessions) == (1, 1)
    assert stats.kv_bytes < held
    assert stats.host_bytes > 0
    computed = stats.tokens_prefilled, stats.tokens_decoded
    got_V = extend(engine, session, Chunk([61]))
    stats = engine.stats()
    assert (stats.tokens_prefilled, stats.tokens_decoded) == (computed[0], computed[1] + 1)
    assert (stats.resumes, stats.host_bytes) == (1, 0)
    assert torch.equal(got_V, extend(engine, twin, Chunk([61])))


def test_a_prefix_leaves_the_device_with_its_last_user(policy):
    engine = Engine(policy, load_picture, config=EngineConfig(prefix_cache_bytes=0))
    group = open_group(engine, 3)
    [segment] = group[0].cache.prefix
    engine.evict(group[0])
    engine.evict(group[1])
    assert not segment.is_on_host
    engine.evict(group[2])
    assert segment.is_on_host
    assert engine.stats().kv_bytes == 0
    twin = engine.fork(group[0])
    assert not segment.is_on_host
    expected_V = alone(policy, PROMPT, Chunk([60]))
    assert (extend(engine, twin, Chunk([60])) - expected_V).abs().max() < CLOSE


def test_a_prefix_hit_on_evicted_memory(policy):
    engine = Engine(policy, load_picture)
    first = open_group(engine, 1)[0]
    second = engine.open()
    extend(engine, second, Chunk([*PROMPT.ids, 5], opens_turn=True))
    assert engine.stats().prefix_hits == 1
    engine.evict(first)
    engine.evict(second)
    third = engine.open()
    got_V = extend(engine, third, Chunk([*PROMPT.ids, 5, 6], opens_turn=True))
    assert engine.stats().prefix_hits == 2
    expected_V = alone(policy, Chunk([*PROMPT.ids, 5, 6], opens_turn=True))
    assert (got_V - expected_V).abs().max() < CLOSE


def test_the_budget_is_kept_and_refusals_change_nothing(policy):
    per_token = policy.new_cache(0).bytes_per_token
    size = (len(PROMPT.ids) + ROOM) * per_token
    engine = Engine(
        policy,
        load_picture,
        config=EngineConfig(kv_bytes=size + size // 2, prefix_cache_bytes=0),
    )
    first, second = engine.open(), engine.open()
    extend(engine, first, PROMPT)
    with pytest.raises(KVBudgetError, match=f"expected {size} bytes free, got {size // 2}") as info:
        extend(engine, second, PROMPT)
    assert (info.value.needed, info.value.free) == (size, size // 2)
    assert (second.cache.length, second.next_position, second.num_summed) == (0, 0, 0)
    assert engine.stats().tokens_prefilled == len(PROMPT.ids)
    engine.evict(first)
    got_V = extend(engine, second, PROMPT)
    assert torch.equal(got_V, alone(policy, PROMPT))
    with pytest.raises(KVBudgetError):
        extend(engine, first, Chunk([60]))
    with pytest.raises(KVBudgetError):
        engine.fork(first)
    assert first.is_evicted
    engine.close(second)
    assert torch.equal(extend(engine, first, Chunk([60])), alone(policy, PROMPT, Chunk([60])))
    assert engine.stats().kv_bytes <= engine.config.kv_bytes


def test_a_copying_fork_asks_for_its_bytes(policy):
    per_token = policy.new_cache(0).bytes_per_token
    size = (len(PROMPT.ids) + ROOM) * per_token
    config = EngineConfig(kv_bytes=size, share_prefix=False, prefix_cache_bytes=0)
    engine = Engine(policy, load_picture, config=config)
    first = open_group(engine, 1)[0]
    with pytest.raises(KVBudgetError):
        engine.fork(first)
    assert engine.stats().forks == 0
    config = EngineConfig(kv_bytes=size, prefix_cache_bytes=0)
    sharing = Engine(policy, load_picture, config=config)
    group = open_group(sharing, 8)
    assert len(group) == 8
    assert sharing.stats().kv_bytes == size


def test_a_session_goes_on_over_a_publish(policy):
    engine = Engine(policy, load_picture, version="v1")
    session = open_group(engine, 1)[0]
    engine.publish("v2")
    got_V = extend(engine, session, Chunk([60]))
    assert torch.equal(got_V, alone(policy, PROMPT, Chunk([60])))
    assert (session.version, engine.version) == ("v1", "v2")


def test_a_closed_or_foreign_session_is_refused(policy, engine):
    session = open_group(engine, 1)[0]
    engine.close(session)
    engine.close(session)
    foreign = Engine(policy, load_picture).open()
    for wrong in (session, foreign):
        with pytest.raises(ValueError, match="session: expected an open one of this engine"):
            extend(engine, wrong, Chunk([60]))
        with pytest.raises(ValueError, match="session: expected an open one of this engine"):
            engine.fork(wrong)
