"""Too little room for keys and values, and prompts larger than one forward."""

from pixelis_fast.loop import Request
from pixelis_fast.policy.engine import EngineConfig
from pixelis_fast.types import RolloutStatus, TokenRole
from tests.loop_fixtures import (
    ANSWER,
    ZOOM,
    ask,
    coins_of,
    same_tokens,
    script,
    small,
    until,
    variant,
)


def test_without_room_the_youngest_steps_aside_and_nothing_is_lost(agent, coins, expected):
    tight = small(agent, coins, factor=2.2)
    requests = [ask(coins_of(tight), seed) for seed in range(4)]
    with tight.loop as loop:
        got = [ticket.result(60) for ticket in loop.submit_all(requests)]
        assert loop.stats().preempted > 0
    assert all(same_tokens(expected(r), t) for r, t in zip(requests, got, strict=True))
    # A turn's last tokens go with its observation.
    opened = (TokenRole.PROMPT, TokenRole.OBSERVATION)
    computed = sum(role in opened for t in got for role in t.roles)
    assert tight.engine.stats().tokens_prefilled <= computed + 16 * sum(len(t.steps) for t in got)


def test_who_waits_for_a_tool_makes_room(agent, coins):
    """The tool's result is there in the end, and nothing was computed twice."""
    tight = small(agent, coins, factor=1.5, held=("zoom",))
    coins = coins_of(tight)
    with tight.loop as loop:
        waiting = loop.submit(Request(coins), chooser=script(tight, ZOOM, ANSWER))
        until(lambda: loop.stats().waiting_for_tools == 1)
        prefilled = tight.engine.stats().tokens_prefilled
        other = loop.submit(Request(coins), chooser=script(tight, ANSWER)).result(60)
        assert loop.stats().evicted_now == 1
        tight.tools.calls[-1].let_go()
        trajectory = waiting.result(60)
    assert (other.answer, trajectory.answer) == ("24", "24")
    assert trajectory.steps[0].observation.media
    stats = tight.engine.stats()
    assert (stats.evictions, stats.resumes) == (1, 1)
    observed = trajectory.roles.count(TokenRole.OBSERVATION)
    assert stats.tokens_prefilled - 2 * prefilled <= observed + 16


def test_a_request_larger_than_the_room_fails_alone(agent):
    engine = EngineConfig(kv_bytes=1 << 14, prefix_cache_bytes=0)
    tiny = variant(agent, engine=engine)
    with tiny.loop as loop:
        trajectory = loop.submit(ask(coins_of(tiny), 0)).result(20)
    assert trajectory.status is RolloutStatus.FAILED
    assert "kv_bytes: expected" in trajectory.error


def test_what_a_kept_prompt_supplies_is_no_part_of_the_budget(agent, expected):
    chunked = variant(agent, prefill_tokens=48, share_prompts=False)
    coins = coins_of(chunked)
    openings = []
    extend = chunked.engine.extend

    def watching(sessions, chunks, *, spans):
        openings.append([len(chunk.ids) for chunk in chunks if chunk.opens_turn])
        return extend(sessions, chunks, spans=spans)

    with chunked.loop as loop:
        loop.submit(ask(coins, 0)).result(60)
        chunked.engine.extend = watching
        before = chunked.engine.stats().tokens_prefilled
        asked = [ask(coins, seed) for seed in range(3)]
        found = [ticket.result(60) for ticket in loop.submit_all(asked)]
    prompt = found[0].roles.count(TokenRole.PROMPT)
    assert openings[0] == [prompt] * 3, "together, and whole"
    assert chunked.engine.stats().tokens_prefilled - before < 3 * prompt
    for request, trajectory in zip(asked, found, strict=True):
        assert same_tokens(trajectory, expected(request))


def test_prompts_go_in_parts_beside_decoding_sessions(agent, expected):
    chunked = variant(agent, prefill_tokens=48, engine=EngineConfig(prefix_cache_bytes=0))
    coins = coins_of(chunked)
    sizes = []
    extend = chunked.engine.extend

    def watching(sessions, chunks, *, spans):
        sizes.append([len(chunk.ids) for chunk in chunks if chunk.opens_turn])
        return extend(sessions, chunks, spans=spans)

    chunked.engine.extend = watching
    with chunked.loop as loop:
        [trajectory] = [t.result(60) for t in loop.submit_all([ask(coins, 0)])]
    pictures = max(span.num_tokens for span in trajectory.spans)
    assert max(sum(each) for each in sizes) <= max(48, pictures)
    assert sum(bool(each) for each in sizes) > 3
    assert same_tokens(trajectory, expected(ask(coins, 0)))
