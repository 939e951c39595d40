"""Steps in buffers that never move: rows follow their sessions, whoever comes and goes.

The recording on CUDA needs a device; here the same step runs without it.
"""

import gc

import pytest
import torch

from pixelis_fast.policy import static_decode
from pixelis_fast.policy.engine import Chunk, Engine, EngineConfig
from pixelis_fast.policy.model import Policy
from pixelis_fast.policy.weights import random_policy
from pixelis_fast.spans import Spans
from tests.policy.engine_media import extend, load_picture

CLOSE = 1e-5
PROMPT = Chunk(list(range(100, 190)), opens_turn=True)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return random_policy("unit", seed=1)


class Both:
    """The same sessions on an engine with static buffers and on one without."""

    def __init__(self, policy: Policy, size: int) -> None:
        self.engines = [
            Engine(policy, load_picture, config=EngineConfig(static_decode=static))
            for static in (True, False)
        ]
        self.pairs = [[engine.open() for engine in self.engines] for _ in range(size)]
        for member, pair in enumerate(self.pairs):
            self.append([pair], [Chunk([member + 5, *PROMPT.ids], opens_turn=True)])

    def append(self, pairs: list, chunks: list[Chunk]) -> None:
        """On both; what they answer must agree."""
        sides = zip(*pairs, strict=True)
        static_BV, plain_BV = (
            engine.extend(list(side), chunks, spans=Spans())
            for engine, side in zip(self.engines, sides, strict=True)
        )
        assert (static_BV - plain_BV).abs().max() < CLOSE

    def decode(self, *members: int) -> None:
        chunks = [Chunk([40 + member]) for member in members]
        self.append([self.pairs[member] for member in members], chunks)

    @property
    def buckets(self) -> dict:
        return self.engines[0]._forward._static._buckets


def test_rows_follow_sessions_that_leave_and_return(policy, monkeypatch):
    filled = []
    fill = static_decode.Bucket._fill
    monkeypatch.setattr(
        static_decode.Bucket,
        "_fill",
        lambda self, row, cache: (filled.append(row), fill(self, row, cache))[1],
    )
    both = Both(policy, 4)
    both.decode(0, 1, 2, 3)
    assert len(filled) == 4
    both.decode(3, 1, 0)
    both.decode(2, 0, 1, 3)
    assert len(filled) == 4
    both.append([both.pairs[1]], [Chunk([7, 8, 9], opens_turn=True)])
    both.decode(0, 1, 2, 3)
    assert len(filled) == 5


def test_more_sessions_and_more_tokens_take_larger_buffers(policy, monkeypatch):
    monkeypatch.setattr(static_decode, "ROOM_STEP", 96)
    both = Both(policy, 5)
    for _ in range(8):
        both.decode(0, 1, 2)
    both.decode(*range(5))
    assert sorted(both.buckets) == [(4, 96, False), (4, 192, False), (8, 192, False)]


def test_another_session_in_place_of_a_closed_one(policy):
    both = Both(policy, 2)
    both.decode(0, 1)
    for engine, session in zip(both.engines, both.pairs[0], strict=True):
        engine.close(session)
    both.pairs[0] = [engine.open() for engine in both.engines]
    gc.collect()
    both.append([both.pairs[0]], [Chunk([9, *PROMPT.ids], opens_turn=True)])
    both.decode(1, 0)
    both.decode(0, 1)


def test_a_truncated_cache_is_not_taken_for_what_it_was(policy):
    both = Both(policy, 2)
    both.decode(0, 1)
    for session in both.pairs[0]:
        length = session.cache.length
        session.cache.truncate(length - 3)
        session.next_position -= 3
    both.append([both.pairs[0]], [Chunk([70, 71, 72])])
    both.decode(0, 1)


def test_evicted_and_forked_sessions(policy):
    both = Both(policy, 2)
    both.decode(0, 1)
    for engine, session in zip(both.engines, both.pairs[0], strict=True):
        engine.evict(session)
    both.pairs.append(
        [engine.fork(s) for engine, s in zip(both.engines, both.pairs[1], strict=True)]
    )
    both.decode(2, 1, 0)
    both.decode(0, 1, 2)


def test_a_publish_gives_the_buffers_back(policy):
    engine = Engine(policy, load_picture, config=EngineConfig(static_decode=True))
    session = engine.open()
    extend(engine, session, PROMPT, Chunk([5]))
    assert engine._forward._static.nbytes > 0
    engine.publish("v2")
    assert engine._forward._static.nbytes == 0
    expected_V = extend(*fresh(policy), PROMPT, Chunk([5]), Chunk([6]))
    assert (extend(engine, session, Chunk([6])) - expected_V).abs().max() < CLOSE


def fresh(policy: Policy) -> tuple:
    engine = Engine(policy, load_picture)
    return engine, engine.open()


def test_batch_invariance_excludes_it():
    with pytest.raises(ValueError, match="static_decode: expected False with batch_invariant"):
        EngineConfig(batch_invariant=True, share_prefix=False, static_decode=True)


@pytest.mark.gpu
def test_a_recording_gives_what_the_plain_step_gives():
    policy = random_policy("unit", seed=1, device="cuda", dtype=torch.bfloat16)
    engines = [
        Engine(policy, load_picture, config=EngineConfig(static_decode=static))
        for static in (True, False)
    ]
    rows = []
    for engine in engines:
        session = engine.open()
        rows.append(extend(engine, session, PROMPT, *(Chunk([5 + n]) for n in range(6))))
    assert torch.cosine_similarity(*rows, dim=0) > 0.999
