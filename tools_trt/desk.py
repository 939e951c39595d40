"""Where callers leave work and compute threads take it: queue, memo and statistics under one lock.

Tools run outside the lock, and so do the callbacks of tickets, which may call again. Starts no
thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pixelis_fast.tools_trt.call_stats import CallStats, SchedulerStats
from pixelis_fast.tools_trt.heap import Heap
from pixelis_fast.tools_trt.pixels.tiers import TierStore
from pixelis_fast.tools_trt.work_queue import DeadlineError, Job, Priority, Ticket, Work, WorkQueue

MAX_WINDOW_S = 0.002


@dataclass(frozen=True)
class SchedulerConfig:
    """How many run at once, and how calls are gathered.

    Example:
        SchedulerConfig(window_s=0.001)
    """

    workers: int = 1
    """Compute threads; 0 leaves the running to `Scheduler.run_next`."""
    window_s: float = MAX_WINDOW_S
    """Longest wait for more calls of one batch key; 0 gathers only what waits already."""
    max_batch: int = 16

    def __post_init__(self) -> None:
        if self.workers < 0 or self.max_batch < 1:
            raise ValueError(
                "scheduler: expected workers >= 0 and max_batch >= 1, got "
                f"{self.workers} and {self.max_batch}"
            )
        if not 0 <= self.window_s <= MAX_WINDOW_S:
            raise ValueError(f"window_s: expected 0..{MAX_WINDOW_S}, got {self.window_s}")


CROWD_S = 0.1
"""Threads that called within this time may call again within the window."""


@dataclass(frozen=True)
class Turn:
    """What one thread does next: tickets to refuse, then jobs to run together."""

    group: list[Job]
    refused: list[tuple[Job, Ticket]]

    def __bool__(self) -> bool:
        return bool(self.group or self.refused)


class Desk:
    """What callers and compute threads share: the queue, the memo and the statistics."""

    def __init__(
        self, memo: TierStore, config: SchedulerConfig, clock: Callable[[], float]
    ) -> None:
        self._memo, self._config, self._clock = memo, config, clock
        self._queue = WorkQueue()
        self._stats = CallStats()
        self._callers: dict[int, float] = {}
        """Thread -> when it last called."""
        self._changed = threading.Condition()
        self._is_closed = False

    def accept(self, work: Work, priority: Priority, deadline_s: float) -> Ticket:
        now_s = self._clock()
        ticket = Ticket(submitted_s=now_s, deadline_s=now_s + deadline_s)
        with self._changed:
            if self._is_closed:
                raise RuntimeError("scheduler: expected an open one, got one that was closed")
            self._callers[threading.get_ident()] = now_s
            # Under the lock: a job keeps its result before it lands, so one of both is found.
            found = self._memo.get(work.key)
            if found is None:
                self._queue.add(work, ticket, priority)
                self._changed.notify_all()
            else:
                ticket.source = "memo"
            self._stats.called(
                work, ticket.source, priority, waited_ms=1e3 * (self._clock() - now_s)
            )
        if found is not None:
            ticket.set_running_or_notify_cancel()
            ticket.set_result(found)
        return ticket

    def next_turn(self) -> Turn | None:
        """Waits for work; None when closed."""
        with self._changed:
            while not self._is_closed:
                if turn := self.turn(is_waiting=True):
                    return turn
                self._changed.wait()
        return None

    def turn(self, *, is_waiting: bool) -> Turn:
        """The most urgent job and those that run with it; empty when nothing waits."""
        with self._changed:
            job = self._queue.take(self._clock())
            group = [] if job is None else self._gather(job, is_waiting=is_waiting)
            self._stats.started(group, self._queue.cancelled, self._queue.refused)
            self._queue.cancelled.clear()
            refused = list(self._queue.refused)
            self._queue.refused.clear()
        return Turn(group, refused)

    def run(self, turn: Turn) -> None:
        """Outside the lock: tools take long, and whoever waits on a ticket may call again."""
        start_s = self._clock()
        for job, ticket in turn.refused:
            late_ms = 1e3 * (start_s - ticket.deadline_s)
            expected = f"{job.work.tool}: expected to start before its deadline"
            ticket.set_exception(DeadlineError(f"{expected}, got its turn {late_ms:.0f} ms late"))
        outcomes = outcomes_of([job.work for job in turn.group])
        end_s = self._clock()
        for job, outcome in zip(turn.group, outcomes, strict=True):
            self._finish(job, outcome, start_s=start_s, end_s=end_s)

    def read_stats(self) -> SchedulerStats:
        with self._changed:
            return self._stats.read(waiting=len(self._queue))

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            waiting = self._queue.drain()
            self._changed.notify_all()
        for job in waiting:
            for ticket in job.tickets:
                ticket.cancel()
                ticket.set_running_or_notify_cancel()

    def _gather(self, job: Job, *, is_waiting: bool) -> list[Job]:
        """The job with others of its batch key, waiting for more while that can pay."""
        if job.work.batch is None:
            return [job]
        group, end_s = [job], self._clock() + self._config.window_s
        while True:
            now_s = self._clock()
            most = self._config.max_batch - len(group)
            group += self._queue.take_batch(job, most=most, now_s=now_s)
            is_full = len(group) >= self._config.max_batch
            if is_full or not is_waiting or not self._may_grow(now_s, end_s):
                return group
            self._changed.wait(end_s - now_s)

    def _may_grow(self, now_s: float, end_s: float) -> bool:
        self._callers = {t: s for t, s in self._callers.items() if now_s - s < CROWD_S}
        is_crowd = len(self._callers) > 1
        return is_crowd and not len(self._queue) and not self._is_closed and now_s < end_s

    def _finish(self, job: Job, outcome: Any, *, start_s: float, end_s: float) -> None:
        is_failed = isinstance(outcome, BaseException)
        if not is_failed:
            self._memo.put(job.work.key, outcome)
        with self._changed:
            tickets = self._queue.land(job)
            self._stats.finished(job, tickets, end_s=end_s, is_failed=is_failed)
        for ticket in tickets:
            began_s = max(start_s, ticket.submitted_s)
            ticket.spans["queue"] = 1e3 * (began_s - ticket.submitted_s)
            ticket.spans["run"] = 1e3 * (end_s - began_s)
            if is_failed:
                ticket.set_exception(outcome)
            else:
                ticket.set_result(outcome)


def refused(error: Exception) -> Ticket:
    """A ticket for what was never queued; its `result()` raises the error."""
    ticket = Ticket(submitted_s=time.monotonic())
    ticket.set_running_or_notify_cancel()
    ticket.set_exception(error)
    return ticket


def serve(desk: Desk) -> None:
    """A compute thread's life. It holds no work while it waits for more."""
    heap = Heap()
    while (turn := desk.next_turn()) is not None:
        desk.run(turn)
        del turn
        heap.worked()


def outcomes_of(works: Sequence[Work]) -> Sequence[Any]:
    """A result or an exception for each; several works have one batch key."""
    if not works:
        return ()
    batch = works[0].batch
    try:
        if batch is None or len(works) == 1:
            return [works[0].run()]
        outcomes = batch.run([work.batch.item for work in works if work.batch is not None])
        assert len(outcomes) == len(works), f"{works[0].tool}: one outcome for each call"
    except BaseException as error:  # every caller's result() raises it
        return [error] * len(works)
    return outcomes
