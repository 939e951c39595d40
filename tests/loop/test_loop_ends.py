"""Ends of every kind: cancelled, out of time, closed, handed over, stopped; and a full queue."""

import threading

import pytest

from pixelis_fast.loop import Call, Observed, QueueFullError, Request
from pixelis_fast.types import RolloutStatus, TokenRole
from tests.loop_fixtures import (
    ANSWER,
    READ,
    ZOOM,
    ask,
    coins_of,
    script,
    until,
    variant,
)


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


def test_bad_requests_are_named(coins):
    with pytest.raises(ValueError, match="jump_ahead: expected a grammar"):
        Request(coins, constrained=False)
    with pytest.raises(ValueError, match="stop: expected texts, got an empty one"):
        Request(coins, stop=("",))
    with pytest.raises(ValueError, match="max_steps: expected > 0, got 0"):
        Request(coins, max_steps=0)
