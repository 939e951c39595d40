"""Errors end the trajectory they belong to, with their reason, and no other."""

import logging
import threading
from dataclasses import replace

import pytest

from pixelis_fast.loop import Ended, LoopClosedError, Request
from pixelis_fast.types import RolloutStatus
from tests.loop_fixtures import (
    ANSWER,
    ZOOM,
    ask,
    coins_of,
    same_tokens,
    script,
    until,
    variant,
)


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


def test_an_error_without_words_is_named(agent, coins):
    def wordless(event):
        raise AssertionError

    with agent.loop as loop:
        trajectory = loop.submit(ask(coins, 0), on_event=wordless).result(20)
    assert (trajectory.status, trajectory.error) == (RolloutStatus.FAILED, "AssertionError")


def test_a_listener_that_fails_at_the_end_changes_no_trajectory(agent, coins, caplog):
    def unhappy(event):
        if isinstance(event, Ended):
            raise LookupError("who listens?")

    with agent.loop as loop:
        chooser = script(agent, ANSWER)
        ticket = loop.submit(Request(coins), chooser=chooser, on_event=unhappy)
        assert ticket.result(20).answer == "24"
        assert loop.submit(Request(coins), chooser=script(agent, ANSWER)).result(20).answer == "24"
    assert ticket.error is None
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage().startswith("on_event: expected no error at the end")
    assert str(record.exc_info[1]) == "who listens?"


def test_a_failing_heir_leaves_its_leader_and_the_next_alone(agent, expected, monkeypatch):
    """The first of three leaves while the prompt's picture is made; the second cannot begin it."""
    other = variant(agent)
    requests = [ask(coins_of(other), seed, group_key="g") for seed in range(3)]
    batch, gate = other.loop._batch, threading.Event()
    desk, begin = batch._pictures._desk, batch._pictures.begin
    make = desk._make

    def failing(run):
        if run.request.sampling.seed == 1:
            raise OSError("no thread for its pictures")
        begin(run)

    monkeypatch.setattr(desk, "_make", lambda media_id: gate.wait(20) and make(media_id))
    monkeypatch.setattr(batch._pictures, "begin", failing)
    with other.loop as loop:
        leader, heir, last = loop.submit_all(requests)
        until(lambda: len(batch.live) == 3)
        leader.cancel()
        assert leader.result(20).status is RolloutStatus.CANCELLED
        assert heir.result(20).status is RolloutStatus.FAILED
        gate.set()
        assert same_tokens(last.result(20), expected(requests[2]))
    assert leader.error is None
    assert heir.trajectory.error == "no thread for its pictures"
    stats = loop.stats()
    assert (stats.cancelled, stats.failed, stats.finished) == (1, 1, 1)


def test_a_failing_forward_is_pinned_on_its_row(agent, expected, monkeypatch, caplog):
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
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.getMessage().endswith("rows, got an error; each goes alone")
    assert str(record.exc_info[1]) == "out of something"


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
        with pytest.raises(LoopClosedError, match="expected a running one, got one that is closed"):
            loop.submit(ask(coins, 0))


def test_an_error_after_an_end_breaks_the_loop(agent, monkeypatch):
    """The trajectory has what it has; the error is the loop's, and whoever is left gets it."""
    broken = variant(agent, held=("zoom",))
    coins, errors = coins_of(broken), [ZeroDivisionError("after the end")]
    with broken.loop as loop:
        waiting = loop.submit(Request(coins), chooser=script(broken, ZOOM, ANSWER))
        until(lambda: loop.stats().waiting_for_tools == 1)
        monkeypatch.setattr(loop._batch, "_wake", lambda: throw(errors.pop()) if errors else None)
        first = loop.submit(Request(coins), chooser=script(broken, ANSWER))
        assert first.result(20).answer == "24"
        assert waiting.result(20).status is RolloutStatus.FAILED
    assert first.error is None
    assert waiting.trajectory.error == "after the end"


def throw(error: Exception) -> None:
    raise error
