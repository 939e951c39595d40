"""What the scheduler counts: calls, kept results, shared work, speculation, times per tool.

Times are what a caller waited, from submission to result. Not locked. Knows no thread.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pixelis_fast.tools_trt.work_queue import Job, Priority, Source, Ticket, Work

KEPT_TIMES = 2048
"""Latest answered calls of a tool that its percentiles look at."""
KEPT_GUESSES = 4096
"""Speculative results whose use is still awaited; older ones count as wasted."""


@dataclass(frozen=True)
class ToolStats:
    """One tool's calls."""

    calls: int = 0
    memo_hits: int = 0
    """Answered by a kept result."""
    joined: int = 0
    """Answered by an equal call's work."""
    ran: int = 0
    """Pieces of work that ran."""
    failed: int = 0
    """Of those, how many raised."""
    late: int = 0
    cancelled: int = 0
    p50_ms: float | None = None
    """None before the first answer."""
    p95_ms: float | None = None
    p99_ms: float | None = None


@dataclass(frozen=True)
class SchedulerStats:
    """Everything counted since the scheduler began."""

    tools: dict[str, ToolStats]
    waiting: int
    """Jobs in the queue now."""
    batches: int
    """Groups of more than one job."""
    batched: int
    """Jobs in them."""
    speculated: int
    """Pieces of work that ran before anyone asked."""
    useful: int
    """Of those, how many somebody asked for later."""

    @property
    def wasted(self) -> int:
        """As of now: a speculative result may still be asked for."""
        return self.speculated - self.useful


@dataclass
class ToolCounts:
    """The growing form of ToolStats."""

    calls: int = 0
    memo_hits: int = 0
    joined: int = 0
    ran: int = 0
    failed: int = 0
    late: int = 0
    cancelled: int = 0
    times_ms: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_TIMES))

    def read(self) -> ToolStats:
        counts = {key: value for key, value in vars(self).items() if key != "times_ms"}
        if not self.times_ms:
            return ToolStats(**counts)
        p50, p95, p99 = (float(value) for value in np.percentile(self.times_ms, (50, 95, 99)))
        return ToolStats(**counts, p50_ms=p50, p95_ms=p95, p99_ms=p99)


class CallStats:
    """Told of every event by the scheduler, under its lock."""

    def __init__(self) -> None:
        self._tools: dict[str, ToolCounts] = {}
        self._batches = self._batched = self._speculated = self._useful = 0
        self._unclaimed: OrderedDict[Hashable, None] = OrderedDict()

    def called(self, work: Work, source: Source, priority: Priority, *, waited_ms: float) -> None:
        counts = self._of(work.tool)
        counts.calls += 1
        counts.joined += source == "joined"
        counts.memo_hits += source == "memo"
        if source == "memo":
            counts.times_ms.append(waited_ms)
            if priority is not Priority.SPECULATIVE:
                self._claim(work.key)

    def started(
        self,
        group: Sequence[Job],
        cancelled: Sequence[tuple[Job, Ticket]],
        late: Sequence[tuple[Job, Ticket]],
    ) -> None:
        if len(group) > 1:
            self._batches += 1
            self._batched += len(group)
        for job, _ in cancelled:
            self._of(job.work.tool).cancelled += 1
        for job, _ in late:
            self._of(job.work.tool).late += 1

    def finished(
        self, job: Job, tickets: Sequence[Ticket], *, end_s: float, is_failed: bool
    ) -> None:
        counts = self._of(job.work.tool)
        counts.ran += 1
        counts.failed += is_failed
        counts.times_ms.extend(1e3 * (end_s - ticket.submitted_s) for ticket in tickets)
        if job.was_speculative:
            self._speculated += 1
            # Somebody who joined while it ran has made it more urgent.
            self._await_use(job.work.key) if job.is_speculative else self._use()

    def read(self, *, waiting: int) -> SchedulerStats:
        return SchedulerStats(
            tools={name: counts.read() for name, counts in self._tools.items()},
            waiting=waiting,
            batches=self._batches,
            batched=self._batched,
            speculated=self._speculated,
            useful=self._useful,
        )

    def _of(self, tool: str) -> ToolCounts:
        return self._tools.setdefault(tool, ToolCounts())

    def _claim(self, key: Hashable | None) -> None:
        if key in self._unclaimed:
            del self._unclaimed[key]
            self._use()

    def _use(self) -> None:
        self._useful += 1

    def _await_use(self, key: Hashable | None) -> None:
        self._unclaimed[key] = None
        while len(self._unclaimed) > KEPT_GUESSES:
            self._unclaimed.popitem(last=False)
