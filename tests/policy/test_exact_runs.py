"""Greedy tokens equal transformers' over random runs, with every feature on and off."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pixelis_fast.policy.engine import EngineConfig
from tests.policy.agent_runs import (
    ACTIONS,
    PIECES,
    Runner,
    Turn,
    chosen,
    expected_tokens,
    perform,
)
from tests.tiny_policy import hf_twin
from tests.tiny_policy import tiny_policy as make_policy

RUNS = 19
BUDGET = 900_000
"""Bytes for two or three sessions, room included."""
DRAWN = object()
SIZES = st.integers(1, 90)
"""From single tokens to more than the longest part of a turn."""
SWITCHES = {
    "defaults": {},
    "resent history": {"keep_kv": False},
    "copied prefixes": {"share_prefix": False},
    "no prefix cache": {"prefix_cache_bytes": 0},
    "small prefix cache": {"prefix_cache_bytes": 200_000},
    "no vision cache": {"vision_cache_bytes": 0},
    "plain matrices": {"packed_weights": False},
    "prefill in pieces": {"prefill_chunk": DRAWN},
    "under pressure": {"kv_bytes": BUDGET},
    "static buffers": {"static_decode": True},
    "batch invariant": {"share_prefix": False, "batch_invariant": True},
}


@pytest.fixture(scope="module")
def pair():
    policy = make_policy(seed=51)
    return policy, hf_twin(policy)


PICTURED = Turn(((20, 0), (PIECES[1], 0)))


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES.keys())
@settings(max_examples=RUNS, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=ACTIONS, size=SIZES)
@example(actions=[("open", PICTURED, "", True), ("step all", 2)] * 2, size=6)
def test_greedy_tokens_are_those_of_transformers(pair, switches, actions, size):
    policy, model = pair
    drawn = {name: size if value is DRAWN else value for name, value in switches.items()}
    runner = Runner(policy).start(EngineConfig(**drawn))
    perform(runner, actions)
    for actor in runner.actors:
        assert chosen(actor) == expected_tokens(model, actor)
    if runner.engine.config.kv_bytes is not None:
        assert runner.engine.stats().kv_bytes <= BUDGET


@pytest.mark.parametrize(("ends_in_picture", "shared"), [(True, "before it"), (False, "all")])
def test_the_runs_reach_what_they_are_for(pair, ends_in_picture, shared):
    """A hit that would end inside a picture's span is cut back to its start."""
    policy, _ = pair
    runner = Runner(policy).start(EngineConfig())
    for _ in range(2):
        runner.open(PICTURED, "", ends_in_picture)
        runner.step(runner.actors[-1:])
    chunk, _ = runner.chunk(PICTURED)
    [slot] = chunk.slots
    expected = slot.offset if shared == "before it" else len(chunk.ids) - 1
    assert runner.engine.stats().tokens_shared == expected
    runner.open(Turn(((20, 0), (PIECES[1], 1))), "", ends_in_picture)
    runner.step(runner.actors[-1:])
    assert runner.engine.stats().tokens_shared == expected + slot.offset
    runner.open(PICTURED, "tenant", ends_in_picture)
    runner.step(runner.actors[-1:])
    assert runner.engine.stats().prefix_hits == 2
