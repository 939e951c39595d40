"""The loop on a real (random) policy and real tools: overlap, groups, room, ends of every kind."""

import random
import threading
import time
from dataclasses import replace

import pytest
import torch

from pixelis_fast.agent import Agent, AgentConfig, build_agent
from pixelis_fast.loop import (
    Call,
    Ended,
    LoopConfig,
    Observed,
    QueueFullError,
    Request,
    Tokens,
)
from pixelis_fast.policy.engine import Chunk, EngineConfig, VisionSlot
from pixelis_fast.policy.sampling import Sampling, mask_logits
from pixelis_fast.rollout import RolloutConfig
from pixelis_fast.script import Script
from pixelis_fast.trace import differences
from pixelis_fast.types import RolloutStatus, Sample, TokenRole, Trajectory
from tests.loop_fixtures import (
    ANSWER,
    READ,
    SEGMENT,
    ZOOM,
    HeldCall,
    HeldTools,
    call_text,
    same_tokens,
    script,
    until,
)
from tests.media import clip, picture

SAMPLED = Sampling(temperature=1.0, seed=3)
SCRIPTS = {
    100: ("Look. " + ZOOM, ANSWER),
    101: (SEGMENT, call_text("properties", mask=0), ANSWER),
    102: (READ, ANSWER),
    103: (call_text("zoom", media=0, box=[300, 200, 700, 800], time=0.5), ZOOM, ANSWER),
}
"""By seed."""
LONG = "<answer>" + "one two three four " * 10 + "</answer>"
LIMITS = {"max_steps": 2, "max_tokens": 48}


@pytest.fixture(scope="module")
def agent() -> Agent:
    """Short thoughts: random weights then call tools every other turn."""
    return build_agent(AgentConfig(policy="unit", rollout=RolloutConfig(max_thought_tokens=6)))


@pytest.fixture(scope="module")
def coins(agent) -> Sample:
    return Sample("coins", (agent.tools.add_media(picture("coins.png")),), "How many coins?")


@pytest.fixture(scope="module")
def phone(agent) -> Sample:
    return phone_of(agent)


@pytest.fixture(scope="module")
def expected(agent, coins, phone):
    """What a request gives alone; computed once for each."""
    known: dict[tuple[str, int, int], Trajectory] = {}

    def of(request: Request) -> Trajectory:
        key = request.sample.id, request.sampling.seed, request.max_tokens
        if key not in known:
            known[key] = alone(agent, replace(request, group_key=None, salt=""))
        return known[key]

    return of


def variant(agent: Agent, *, held: tuple[str, ...] = (), engine=None, **loop) -> Agent:
    """The same policy under another loop, with some tools held back."""
    config = replace(agent.config, loop=LoopConfig(**loop), engine=engine or agent.config.engine)
    wrap = (lambda tools: HeldTools(tools, held=held)) if held else None
    return agent.variant(config, wrap_tools=wrap)


def coins_of(agent: Agent) -> Sample:
    """A variant has a store of its own."""
    return Sample("coins", (agent.tools.add_media(picture("coins.png")),), "How many coins?")


def phone_of(agent: Agent) -> Sample:
    media = agent.tools.add_media(clip("carphone_pristine.mp4"))
    return Sample("phone", (media,), "When does he look away?")


def alone(agent: Agent, request: Request) -> Trajectory:
    """The request with nobody beside it."""
    with agent.loop:
        return agent.loop.submit(request, chooser=chooser_of(agent, request)).result(timeout_s=20)


def ask(sample: Sample, seed: int, **options) -> Request:
    """Drawn from the policy, or one of the scripts, which use tools more than random weights do."""
    limits = {"max_tokens": 400} if seed in SCRIPTS else LIMITS
    return Request(sample, replace(SAMPLED, seed=seed), **limits | options)


def chooser_of(agent: Agent, request: Request) -> Script | None:
    turns = SCRIPTS.get(request.sampling.seed)
    return turns and script(agent, *turns)


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


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"prefill_tokens": 64},
        {"max_sessions": 2},
        {"early_start": False, "prefetch": False},
        {"room": 2.5},
        {"prefill_tokens": 512, "engine": EngineConfig(keep_kv=False)},
    ],
    ids=["default", "chunks", "few", "nothing-ahead", "tight", "resent"],
)
def test_random_interleavings_give_what_each_gives_alone(agent, coins, expected, settings):
    """Requests arrive at random moments, with groups among them; some are cancelled."""
    rng = random.Random(str(settings))
    if room := settings.get("room"):
        busy = small(agent, coins, factor=room)
    else:
        busy = variant(agent, **settings)
    coins, phone = coins_of(busy), phone_of(busy)
    requests = [ask(phone, seed) for seed in (0, 103)] + [ask(coins, seed) for seed in (1, 102)]
    requests += [ask(coins, seed, group_key="g") for seed in (10, 11, 100, 101)]
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


def test_cancellation_at_every_place(agent):
    """In the queue, while tokens come, and while a tool works; twice does no harm."""
    slow = variant(agent, held=("zoom",), max_sessions=2)
    coins = coins_of(slow)
    with slow.loop as loop:
        waits = loop.submit(Request(coins), chooser=script(slow, ZOOM, ANSWER))
        until(lambda: loop.stats().waiting_for_tools == 1)
        told = threading.Event()
        writes = loop.submit(ask(coins, 1, max_tokens=2000), on_event=lambda event: told.set())
        queued = loop.submit(ask(coins, 2))
        assert told.wait(20)
        for ticket in (queued, writes, waits, waits):
            ticket.cancel()
        for ticket in (queued, writes, waits):
            assert ticket.result(20).status is RolloutStatus.CANCELLED
        assert loop.stats().cancelled == 3
    assert slow.tools.calls[-1].was_cancelled
    assert queued.trajectory.steps == []
    assert waits.trajectory.steps[0].observation is None
    assert slow.engine.stats().sessions == 0


def test_the_clock_runs_while_a_tool_works(agent):
    slow = variant(agent, held=("zoom",))
    with slow.loop as loop:
        request = Request(coins_of(slow), max_time_s=3.0)
        trajectory = loop.submit(request, chooser=script(slow, ZOOM, ANSWER)).result(20)
    assert trajectory.status is RolloutStatus.TRUNCATED_MAX_TIME
    assert len(trajectory.roles) == len(trajectory.ids)
    assert TokenRole.ARGUMENT in trajectory.roles


def test_a_closed_loop_cancels_and_refuses(agent):
    slow = variant(agent, held=("zoom",))
    coins = coins_of(slow)
    with slow.loop as loop:
        ticket = loop.submit(Request(coins), chooser=script(slow, ZOOM, ANSWER))
        until(lambda: loop.stats().waiting_for_tools == 1)
    assert ticket.result(1).status is RolloutStatus.CANCELLED
    with pytest.raises(RuntimeError, match="expected a running one, got one that is closed"):
        slow.loop.submit(Request(coins))
    with slow.loop as loop:
        assert loop.submit(Request(coins), chooser=script(slow, ANSWER)).result(20).answer == "24"


def test_the_queue_is_bounded(agent):
    slow = variant(agent, held=("zoom",), max_sessions=1, max_queued=2)
    coins = coins_of(slow)
    with slow.loop as loop:
        first = loop.submit(Request(coins), chooser=script(slow, ZOOM, ANSWER))
        until(lambda: loop.stats().waiting_for_tools == 1)
        queued = [loop.submit(Request(coins), chooser=script(slow, ANSWER)) for _ in range(2)]
        with pytest.raises(QueueFullError, match="expected at most 2 waiting requests"):
            loop.submit(Request(coins))
        slow.tools.calls[-1].let_go()
        assert [t.result(20).answer for t in (first, *queued)] == ["24", "24", "24"]


class Broken:
    """A chooser that fails at its third token."""

    def __init__(self, inner) -> None:
        self.inner, self.left = inner, 2

    def choose(self, logits_V, allowed_V):
        if self.left == 0:
            raise ValueError("step 2: expected finite logits, got nan")
        self.left -= 1
        return self.inner.choose(logits_V, allowed_V)

    def follow(self, forced):
        self.inner.follow(forced)

    def observe(self, observation, piece):
        return piece


def test_one_failing_request_ends_alone(agent, coins, expected):
    gone = replace(coins, media=(replace(coins.media[0], id="no such picture"),))
    with agent.loop as loop:
        good = [loop.submit(ask(coins, seed)) for seed in range(2)]
        broken = loop.submit(Request(coins), chooser=Broken(script(agent, "One two three four.")))
        lost = loop.submit(ask(gone, 1))
        deaf = loop.submit(ask(coins, 5), on_event=lambda event: {}[event])
        trajectories = [ticket.result(60) for ticket in good]
        assert [t.result(60).status for t in (broken, lost, deaf)] == [RolloutStatus.FAILED] * 3
    assert broken.trajectory.error == "step 2: expected finite logits, got nan"
    assert isinstance(broken.error, ValueError)
    assert "no such picture" in lost.trajectory.error
    assert isinstance(deaf.error, KeyError | TypeError)
    for seed, trajectory in enumerate(trajectories):
        assert same_tokens(trajectory, expected(ask(coins, seed)))
    assert agent.engine.stats().sessions == 0


def test_a_failing_forward_is_pinned_on_its_row(agent, expected, monkeypatch):
    """The engine refuses one session in whatever batch it comes."""
    other = variant(agent)
    coins = coins_of(other)
    extend = other.engine.extend

    def refusing(sessions, chunks, *, spans):
        if any(session.salt == "bad" for session in sessions):
            raise RuntimeError("out of something")
        return extend(sessions, chunks, spans=spans)

    monkeypatch.setattr(other.engine, "extend", refusing)
    requests = [ask(coins, 0), ask(coins, 1, salt="bad"), ask(coins, 2)]
    with other.loop as loop:
        first, bad, last = [ticket.result(60) for ticket in loop.submit_all(requests)]
    assert (bad.status, bad.error) == (RolloutStatus.FAILED, "out of something")
    assert [first.ids, last.ids] == [expected(r).ids for r in (requests[0], requests[2])]


def test_a_loop_that_breaks_leaves_nobody_waiting(agent, monkeypatch):
    broken = variant(agent, held=("zoom",))
    coins = coins_of(broken)
    with broken.loop as loop:
        ticket = loop.submit(Request(coins), chooser=script(broken, ZOOM, ANSWER))
        until(lambda: loop.stats().waiting_for_tools == 1)
        monkeypatch.setattr(loop._batch, "rows", lambda: 1 // 0)
        broken.tools.calls[-1].let_go()
        assert ticket.result(20).status is RolloutStatus.FAILED
        assert isinstance(ticket.error, ZeroDivisionError)
        until(lambda: loop._crash is not None)
        with pytest.raises(RuntimeError, match="expected a running one, got one that is closed"):
            loop.submit(ask(coins, 0))


def small(agent: Agent, coins: Sample, *, factor: float, held: tuple[str, ...] = ()) -> Agent:
    """With room for so many of the longest trajectories."""
    session = agent.engine.open()
    per_token = session.cache.bytes_per_token
    agent.engine.close(session)
    prompt = len(alone(agent, ask(coins, 0, max_tokens=1)).ids)
    budget = int(factor * (prompt + 500) * per_token)
    return variant(agent, held=held, engine=EngineConfig(kv_bytes=budget, prefix_cache_bytes=0))


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


def test_a_loop_without_requests_sleeps(agent, coins):
    with agent.loop as loop:
        loop.submit(ask(coins, 0)).result(60)
        ticks, start_s = loop.stats().ticks, time.process_time()
        time.sleep(0.5)
        assert time.process_time() - start_s < 0.05
        assert loop.stats().ticks == ticks


def test_a_call_can_be_drawn_otherwise(agent, coins):
    """Greedy inside calls, drawn outside, each log-probability at its own temperature."""
    request = Request(coins, Sampling(temperature=2.0, seed=1), call_sampling=Sampling())
    chooser, special = agent.loop.sampler(request), agent.tokenizer.special
    logits_V = torch.randn(agent.policy.config.text.vocab_size)
    open_V = mask_logits(logits_V, banned_ids=agent.loop.banned_ids)
    for _ in range(2):
        outside = [chooser.choose(logits_V, None) for _ in range(8)]
        assert len({token for token, _ in outside}) > 4
        at_two = torch.log_softmax(open_V / 2, dim=-1)
        assert [p for _, p in outside] == [float(at_two[token]) for token, _ in outside]
        chooser.follow([special.tool_call_open])
        inside = {chooser.choose(logits_V, None) for _ in range(4)}
        best = int(open_V.argmax())
        assert inside == {(best, float(torch.log_softmax(open_V, dim=-1)[best]))}
        chooser.follow([special.tool_call_close])


def test_step_embeddings_fall_out_of_the_same_passes(agent, coins):
    """Those of one forward over the whole trajectory, without a cache."""
    with agent.loop as loop:
        chooser = script(agent, "Closer. " + ZOOM, READ, ANSWER)
        request = Request(coins, embeddings=True, max_tokens=4096)
        trajectory = loop.submit(request, chooser=chooser).result(60)
    hidden_ND = hidden_states(agent, trajectory)
    first, second, last = trajectory.steps
    for step, end in ((first, second.start), (second, last.start)):
        mean_D = hidden_ND[step.start : end].mean(0)
        assert step.embedding == pytest.approx(mean_D.tolist(), abs=1e-4)
    assert last.embedding is not None
    plain = alone(agent, ask(coins, 0))
    assert all(step.embedding is None for step in plain.steps)


def hidden_states(agent: Agent, trajectory: Trajectory) -> torch.Tensor:
    slots = tuple(
        VisionSlot(s.start, s.num_tokens, s.media_id, s.frame, s.grid_thw) for s in trajectory.spans
    )
    batch = agent.engine.training_batch(Chunk(trajectory.ids, slots))
    with torch.no_grad():
        return agent.policy.hidden(batch)


def test_a_call_may_be_handed_over(agent, coins):
    events: list = []
    with agent.loop as loop:
        ticket = loop.submit(
            Request(coins, hands_over_calls=True),
            chooser=script(agent, "See. " + READ),
            on_event=events.append,
        )
        trajectory = ticket.result(60)
    assert trajectory.status is RolloutStatus.CALLED
    assert trajectory.steps[0].call.operation == "read_text"
    assert trajectory.steps[0].observation is None
    assert not [event for event in events if isinstance(event, Call | Observed)]


def test_a_stop_text_ends_the_trajectory(agent, coins):
    with agent.loop as loop:
        request = Request(coins, stop=("coins on",), constrained=False, jump_ahead=False)
        chooser = script(agent, "There are coins on a table.")
        trajectory = loop.submit(request, chooser=chooser).result(60)
    assert trajectory.status is RolloutStatus.STOPPED
    text = agent.tokenizer.decode(trajectory.ids[trajectory.roles.count(TokenRole.PROMPT) :])
    assert "coins on" in text
    assert "table" not in text


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


def test_bad_requests_are_named(coins):
    with pytest.raises(ValueError, match="jump_ahead: expected a grammar"):
        Request(coins, constrained=False)
    with pytest.raises(ValueError, match="stop: expected texts, got an empty one"):
        Request(coins, stop=("",))
    with pytest.raises(ValueError, match="max_steps: expected > 0, got 0"):
        Request(coins, max_steps=0)
