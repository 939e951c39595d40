"""Which work runs next: priorities, deadlines, single flight and batches, without a thread.

Two calls with equal keys are one job with two tickets, from submission until the result is there. A
job moves up when a more urgent call joins it. Cancelled and late tickets leave when their job's
turn comes; a job without tickets is skipped. Times are seconds of the caller's clock. Not locked.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

from pixelis_fast.tools_trt.results import ToolError

Source = Literal["memo", "joined", "ran"]


class DeadlineError(ToolError):
    """Work whose turn came after its deadline; it was not started."""


class Priority(IntEnum):
    """Lanes, the most urgent first: long work waits for what answers at once."""

    DECODE = 0
    """Milliseconds: crops, measurements, prompts on a known picture."""
    ENCODE = 1
    """One picture through a network."""
    TRACK = 2
    """Many frames."""
    SPECULATIVE = 3
    """Nobody asked yet: runs only when nothing else waits."""


@dataclass(frozen=True)
class Batch:
    """How calls run together: equal keys, one `run` over their items, one outcome each."""

    key: Hashable
    item: Any
    run: Callable[[Sequence[Any]], Sequence[Any]]
    """An outcome is a result, or the exception that its caller gets."""


@dataclass(frozen=True)
class Work:
    """What a call computes.

    Example:
        Work("zoom", lambda: zoom(page.id, box), key=("zoom", page.id, box))
    """

    tool: str
    run: Callable[[], Any]
    key: Hashable | None = None
    """Equal keys promise equal results; None is never shared."""
    batch: Batch | None = None


class Ticket(Future):
    """One caller's claim on a result.

    `cancel` succeeds until the work starts. Running work finishes and its result is kept.
    """

    def __init__(self, *, submitted_s: float, deadline_s: float = math.inf) -> None:
        super().__init__()
        self.submitted_s = submitted_s
        self.deadline_s = deadline_s
        """Clock time by which the work must have started."""
        self.source: Source = "ran"
        """A kept result, one computed for an earlier call, or one computed for this."""
        self.spans: dict[str, float] = {"queue": 0.0, "run": 0.0}
        """Milliseconds before the work started, and while it ran; whole when done."""


@dataclass(eq=False)
class Job:
    """One piece of work and everyone who waits for it."""

    work: Work
    priority: Priority
    tickets: list[Ticket]
    started_s: float | None = None
    was_speculative: bool = False
    """Nobody had asked for the result when it started."""

    @property
    def is_speculative(self) -> bool:
        """Nobody has asked for the result yet."""
        return self.priority is Priority.SPECULATIVE

    @property
    def deadline_s(self) -> float:
        return min(ticket.deadline_s for ticket in self.tickets)


@dataclass
class WorkQueue:
    """Jobs by (priority, deadline, arrival)."""

    refused: list[tuple[Job, Ticket]] = field(default_factory=list)
    """Late tickets since the caller last emptied this list."""
    cancelled: list[tuple[Job, Ticket]] = field(default_factory=list)
    _heap: list[tuple[Priority, float, int, Job]] = field(default_factory=list)
    _flights: dict[Hashable, Job] = field(default_factory=dict)
    _batches: dict[Hashable, dict[int, Job]] = field(default_factory=dict)
    _num_pushed: int = 0
    _num_waiting: int = 0

    def __len__(self) -> int:
        """Jobs that wait."""
        return self._num_waiting

    def add(self, work: Work, ticket: Ticket, priority: Priority) -> Job:
        """Joins the job under the same key, or makes one."""
        job = self._flights.get(work.key) if work.key is not None else None
        if job is None:
            job = Job(work, priority, [ticket])
            self._enter(job)
            return job
        ticket.source = "joined"
        job.tickets.append(ticket)
        job.priority = min(job.priority, priority)
        if job.started_s is None:
            self._push(job)
        else:
            ticket.set_running_or_notify_cancel()
        return job

    def take(self, now_s: float) -> Job | None:
        """The most urgent job, started; None when nothing waits."""
        while self._heap:
            job = heapq.heappop(self._heap)[-1]
            if job.started_s is None and self._start(job, now_s):
                return job
        return None

    def take_batch(self, leader: Job, *, most: int, now_s: float) -> list[Job]:
        """Waiting jobs of a started job's batch key, started, the oldest first.

        No guess rides with work that somebody waits for.
        """
        assert leader.work.batch is not None, "only work with a batch has companions"
        found: list[Job] = []
        for job in list(self._batches.get(leader.work.batch.key, {}).values()):
            is_alike = job.is_speculative == leader.is_speculative
            if len(found) < most and is_alike and self._start(job, now_s):
                found.append(job)
        return found

    def land(self, job: Job) -> list[Ticket]:
        """The job is over: later calls start a new one. Its tickets, for their outcome."""
        if self._flights.get(job.work.key) is job:
            del self._flights[job.work.key]
        return job.tickets

    def drain(self) -> list[Job]:
        """Takes everything that waits, unstarted."""
        waiting = {id(entry[-1]): entry[-1] for entry in self._heap if entry[-1].started_s is None}
        for job in waiting.values():
            self._leave(job, math.inf)
            self.land(job)
        self._heap.clear()
        return list(waiting.values())

    def _enter(self, job: Job) -> None:
        self._num_waiting += 1
        if job.work.key is not None:
            self._flights[job.work.key] = job
        if job.work.batch is not None:
            self._batches.setdefault(job.work.batch.key, {})[id(job)] = job
        self._push(job)

    def _push(self, job: Job) -> None:
        """A job may stand in the heap more than once; its best place counts."""
        self._num_pushed += 1
        heapq.heappush(self._heap, (job.priority, job.deadline_s, self._num_pushed, job))

    def _start(self, job: Job, now_s: float) -> bool:
        """Whether anyone still wants the job in time."""
        self._leave(job, now_s)
        wanted = []
        for ticket in job.tickets:
            if not ticket.set_running_or_notify_cancel():
                self.cancelled.append((job, ticket))
            elif ticket.deadline_s < now_s:
                self.refused.append((job, ticket))
            else:
                wanted.append(ticket)
        job.tickets = wanted
        job.was_speculative = job.is_speculative
        if not wanted:
            self.land(job)
        return bool(wanted)

    def _leave(self, job: Job, now_s: float) -> None:
        job.started_s = now_s
        self._num_waiting -= 1
        if job.work.batch is not None:
            same = self._batches[job.work.batch.key]
            del same[id(job)]
            if not same:
                del self._batches[job.work.batch.key]
