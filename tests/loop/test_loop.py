"""The loop on a real (random) policy and real tools: events, overlap, any order of arrival."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from pixelis_fast.loop import Call, Ended, LoopConfig, Observed, Request, Tokens
from pixelis_fast.policy.engine import EngineConfig
from pixelis_fast.trace import differences
from pixelis_fast.types import RolloutStatus
from tests.loop_fixtures import (
    ANSWER,
    LONG,
    SCRIPTS,
    ZOOM,
    HeldCall,
    ask,
    chooser_of,
    coins_of,
    phone_of,
    same_tokens,
    script,
    small,
    until,
    variant,
)


def test_events_tell_the_trajectory_in_order(agent, coins):
    events: list = []
    with agent.loop:
        chooser = script(agent, "Closer. " + ZOOM, ANSWER)
        ticket = agent.loop.submit(Request(coins), chooser=chooser, on_event=events.append)
        trajectory = ticket.result(timeout_s=60)
    kinds = [type(event) for event in events if not isinstance(event, Tokens)]
    assert kinds == [Call, Observed, Ended]
    assert events[-1].trajectory is trajectory
    generated = [i for step in trajectory.steps for i in range(step.start, step.end)]
    told = [event for event in events if isinstance(event, Tokens)]
    assert [i for e in told for i in e.ids] == [trajectory.ids[i] for i in generated]
    assert [f for e in told for f in e.forced] == [trajectory.forced[i] for i in generated]
    assert [p for e in told for p in e.logprobs] == [trajectory.logprobs[i] for i in generated]
    [call] = [event for event in events if isinstance(event, Call)]
    assert call.call == trajectory.steps[0].call
    assert ticket.done()
    assert trajectory.policy_version == "unit#random-0"


def test_a_waiting_session_costs_no_place(agent):
    """One waits for its tool; the other writes a whole answer meanwhile."""
    slow = variant(agent, held=("zoom",))
    coins = coins_of(slow)
    with slow.loop as loop:
        waiting = loop.submit(Request(coins), chooser=script(slow, ZOOM, ANSWER))
        until(lambda: loop.stats().waiting_for_tools == 1)
        before = loop.stats()
        other = loop.submit(Request(coins), chooser=script(slow, ANSWER)).result(timeout_s=60)
        after = loop.stats()
        assert other.status is RolloutStatus.ANSWERED
        assert not waiting.done()
        assert after.rows - before.rows == after.ticks - before.ticks > 3
        slow.tools.calls[-1].let_go()
        assert waiting.result(timeout_s=60).answer == "24"


def test_who_goes_in_step_waits_for_the_others(agent):
    slow = variant(agent, held=("zoom",))
    coins = coins_of(slow)
    with slow.loop as loop:
        waiting, other = loop.submit_all(
            [Request(coins, in_step=True), Request(coins, in_step=True)],
            choosers=[script(slow, ZOOM, ANSWER), script(slow, LONG)],
        )
        until(lambda: loop.stats().waiting_for_tools == 1)
        ticks = loop.stats().ticks
        time.sleep(0.05)
        assert loop.stats().ticks == ticks
        assert not other.done()
        # Who is not in step goes on.
        assert loop.submit(Request(coins), chooser=script(slow, ANSWER)).result(20).answer == "24"
        slow.tools.calls[-1].let_go()
        assert waiting.result(timeout_s=60).answer == "24"
        assert other.result(timeout_s=60).status is RolloutStatus.ANSWERED


class LateTools:
    """A tool box whose calls come back at random moments."""

    def __init__(self, tools, *, seed: int) -> None:
        self._tools, self._rng = tools, random.Random(seed)

    def submit(self, call, workspace, **options):
        held = HeldCall(call, self._tools.submit(call, workspace, **options), speculative=False)
        threading.Timer(self._rng.random() * 0.05, held.let_go).start()
        return held

    def __getattr__(self, name):
        return getattr(self._tools, name)


def test_a_batch_in_step_repeats_bit_for_bit(agent):
    """However long its tools take."""
    runs = []
    for seed in (0, 1):
        late = agent.variant(agent.config, wrap_tools=lambda t, s=seed: LateTools(t, seed=s))
        rollout = late.rollout.with_config(replace(agent.config.rollout, overlap=False))
        coins, phone, scripts = coins_of(late), phone_of(late), list(SCRIPTS.values())
        runs.append(
            rollout.run(
                [coins, coins, coins, phone],
                make_chooser=lambda i, s=scripts, a=late: script(a, *s[i]),
            )
        )
    assert sum(len(trajectory.steps) for trajectory in runs[0]) == 10
    for one, other in zip(*runs, strict=True):
        assert differences(one, other) == []


def drawn_settings(rng: random.Random) -> dict[str, Any]:
    """A loop and an engine, every mechanism on or off."""
    prefetch = rng.random() < 0.5
    is_invariant = rng.random() < 0.2
    engine = EngineConfig(
        keep_kv=rng.random() < 0.8,
        share_prefix=not is_invariant and rng.random() < 0.7,
        batch_invariant=is_invariant,
        packed_weights=rng.random() < 0.5,
        prefill_chunk=rng.choice([None, rng.randint(8, 400)]),
        prefix_cache_bytes=rng.choice([0, 1 << 28]),
    )
    return {
        "prefill_tokens": rng.choice([None, rng.randint(8, 600)]),
        "max_sessions": rng.choice([2, 3, 64]),
        "share_prompts": rng.random() < 0.7,
        "early_start": rng.random() < 0.5,
        "prefetch": prefetch,
        "prefetch_arrivals": prefetch and rng.random() < 0.3,
        "engine": engine,
    }


def drawn_features(rng: random.Random) -> dict[str, Any]:
    """Of one request: half follow the grammar and jump ahead, as by default."""
    constrained = rng.random() < 0.8
    return {
        "constrained": constrained,
        "jump_ahead": constrained and rng.random() < 0.6,
        "in_step": rng.random() < 0.3,
    }


@pytest.mark.parametrize(
    "settings",
    [{}, {"room": 2.5}, *({"drawn": seed} for seed in range(4))],
    ids=lambda settings: " ".join(f"{k} {v}" for k, v in settings.items()) or "default",
)
def test_random_interleavings_give_what_each_gives_alone(agent, coins, expected, settings):
    """Requests arrive at random moments, with groups among them; some are cancelled."""
    rng = random.Random(str(settings))
    is_drawn = "drawn" in settings
    if room := settings.get("room"):
        busy = small(agent, coins, factor=room)
    else:
        busy = variant(agent, **(drawn_settings(rng) if is_drawn else {}))
    coins, phone = coins_of(busy), phone_of(busy)
    requests = [ask(phone, seed) for seed in (0, 103)] + [ask(coins, seed) for seed in (1, 102)]
    requests += [ask(coins, seed, group_key="g") for seed in (10, 11, 100, 101)]
    if is_drawn:
        requests = [replace(request, **drawn_features(rng)) for request in requests]
    rng.shuffle(requests)
    with busy.loop as loop:
        tickets = []
        for request in requests:
            time.sleep(rng.random() * 0.02)
            tickets.append(loop.submit(request, chooser=chooser_of(busy, request)))
            if rng.random() < 0.3:
                loop.submit(request).cancel()
        got = [ticket.result(timeout_s=60) for ticket in tickets]
    for one, other in zip(map(expected, requests), got, strict=True):
        assert same_tokens(one, other)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    assert sum(step.observation is not None for t in got for step in t.steps) >= 6
    assert busy.engine.stats().sessions == 0


def test_a_loop_takes_another_budget_while_it_runs(agent, coins):
    """Prompts in one forward, then the same in parts; the tokens stay."""
    other = variant(agent, engine=EngineConfig(prefix_cache_bytes=0))
    coins, sizes = coins_of(other), []
    extend = other.engine.extend

    def watched(sessions, chunks, **options):
        sizes.append(sum(len(chunk.ids) for chunk in chunks if chunk.opens_turn))
        return extend(sessions, chunks, **options)

    other.engine.extend = watched
    with other.loop as loop:
        whole = loop.submit(ask(coins, 0)).result(60)
        at_once = max(sizes)
        sizes.clear()
        loop.configure(LoopConfig(prefill_tokens=100))
        parts = loop.submit(ask(coins, 0)).result(60)
    assert at_once > 400
    assert max(sizes) <= 100
    assert parts.ids == whole.ids
    assert loop.config.prefill_tokens == 100


def test_actions_run_between_forwards(agent, coins):
    """A publish while a trajectory is written: the next one has the new version."""
    other = variant(agent)
    coins, told = coins_of(other), threading.Event()
    with other.loop as loop:
        first = loop.submit(ask(coins, 0), on_event=lambda event: told.set())
        assert told.wait(20)
        thread = loop.between_ticks(
            lambda: (other.engine.publish("v2"), threading.current_thread())
        )
        assert thread[1].name == "rollout"
        with pytest.raises(ZeroDivisionError):
            loop.between_ticks(lambda: 1 // 0)
        second = loop.submit(ask(coins, 0))
        assert first.result(20).policy_version == "unit#random-0"
        assert second.result(20).policy_version == "v2"
        until(lambda: loop.engine_stats().sessions == 0)
    assert loop.engine_stats().publishes == 1
    assert loop.between_ticks(lambda: 3) == 3
    assert first.trajectory.ids == second.trajectory.ids


def test_no_action_runs_beside_the_last_forward(agent, coins, monkeypatch):
    """A loop that is asked to close finishes its forward first."""
    other = variant(agent)
    coins = coins_of(other)
    inside, go_on, extend = threading.Event(), threading.Event(), other.engine.extend

    def held(*given, **named):
        inside.set()
        assert go_on.wait(20)
        try:
            return extend(*given, **named)
        finally:
            inside.clear()

    monkeypatch.setattr(other.engine, "extend", held)
    other.loop.start()
    other.loop.submit(ask(coins, 0))
    assert inside.wait(20)
    with ThreadPoolExecutor(2) as pool:
        closing = pool.submit(other.loop.close)
        until(lambda: not other.loop.is_running)
        action = pool.submit(other.loop.between_ticks, inside.is_set)
        time.sleep(0.1)
        assert not action.done()
        go_on.set()
        assert action.result(20) is False
        closing.result(20)


def test_a_loop_without_requests_sleeps(agent, coins):
    with agent.loop as loop:
        loop.submit(ask(coins, 0)).result(60)
        ticks, start_s = loop.stats().ticks, time.process_time()
        time.sleep(0.5)
        assert time.process_time() - start_s < 0.05
        assert loop.stats().ticks == ticks


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_sessions": 0}, "max_sessions: expected > 0, got 0"),
        ({"max_queued": 0}, "max_queued: expected > 0, got 0"),
        ({"prefill_tokens": 0}, "prefill_tokens: expected >= 1 or None, got 0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        LoopConfig(**settings)
