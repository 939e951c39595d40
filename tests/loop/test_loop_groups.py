"""Requests that share a prompt: computed once, whoever leads and whoever leaves."""

from dataclasses import replace

from pixelis_fast.policy.engine import EngineConfig
from pixelis_fast.types import RolloutStatus, TokenRole
from tests.loop_fixtures import ask, coins_of, same_tokens, variant


def test_a_group_computes_its_prompt_once(agent):
    shared = variant(agent, engine=EngineConfig(prefix_cache_bytes=0))
    coins = coins_of(shared)
    requests = [ask(coins, seed, group_key="g", max_tokens=1) for seed in range(4)]
    with shared.loop as loop:
        got = [ticket.result(60) for ticket in loop.submit_all(requests)]
        assert loop.stats().forked == 3
    assert shared.engine.stats().tokens_prefilled == got[0].roles.count(TokenRole.PROMPT)
    apart = variant(agent, engine=EngineConfig(prefix_cache_bytes=0), share_prompts=False)
    coins_apart = coins_of(apart)
    again = [replace(request, sample=coins_apart) for request in requests]
    with apart.loop as loop:
        others = [ticket.result(60) for ticket in loop.submit_all(again)]
    assert apart.engine.stats().tokens_prefilled == 4 * got[0].roles.count(TokenRole.PROMPT)
    assert [t.ids for t in got] == [t.ids for t in others]


def test_a_group_outlives_its_leader(agent, coins, expected):
    with agent.loop as loop:
        requests = [ask(coins, seed, group_key="left") for seed in range(3)]
        first, *rest = loop.submit_all(requests)
        first.cancel()
        got = [ticket.result(60) for ticket in rest]
    assert first.trajectory.status in (RolloutStatus.CANCELLED, RolloutStatus.ANSWERED)
    for request, trajectory in zip(requests[1:], got, strict=True):
        assert same_tokens(trajectory, expected(request))


def test_a_group_with_two_prompts_names_its_key(agent, coins):
    other = replace(coins, question="Which coin is the largest?")
    requests = [ask(coins, 0, group_key="g"), ask(other, 1, group_key="g")]
    with agent.loop as loop:
        first, second = loop.submit_all(requests)
        assert first.result(60).status is not RolloutStatus.FAILED
        assert second.result(60).status is RolloutStatus.FAILED
    assert second.trajectory.error == "group_key: expected the prompt of 'g', got another"
