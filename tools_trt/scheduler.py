"""Calls from many threads, run by a few: one at a time unless asked otherwise.

A call is answered from the memo, or joins an equal one that is on its way, or waits for its turn
(work_queue.py). Calls that an engine can run together are gathered for at most `window_s`, and only
while several threads are calling and nothing else waits. An exception reaches the callers whose
work raised it and nobody else. Knows neither tools nor results.
"""

from __future__ import annotations

import atexit
import math
import threading
import time
import weakref
from collections.abc import Callable

from pixelis_fast.tools_trt.call_stats import SchedulerStats
from pixelis_fast.tools_trt.desk import Desk, SchedulerConfig, refused, serve
from pixelis_fast.tools_trt.pixels.tiers import TierStore
from pixelis_fast.tools_trt.work_queue import Batch, DeadlineError, Priority, Ticket, Work

__all__ = [
    "Batch",
    "DeadlineError",
    "Priority",
    "Scheduler",
    "SchedulerConfig",
    "Ticket",
    "Work",
    "refused",
]


class Scheduler:
    """Runs work for many callers.

    Example:
        with Scheduler(TierStore(host_bytes=1 << 26)) as scheduler:
            ticket = scheduler.submit(Work("zoom", lambda: zoom(page.id, box)))
            result = ticket.result()
    """

    def __init__(
        self,
        memo: TierStore,
        config: SchedulerConfig | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        config = config or SchedulerConfig()
        self._desk = Desk(memo, config, clock)
        # The threads hold the desk and not the scheduler: they end when nobody holds it any more.
        self._finalizer = weakref.finalize(self, self._desk.close)
        self._threads = [
            threading.Thread(target=compute, args=(self._desk,), name=f"tools-{n}", daemon=True)
            for n in range(config.workers)
        ]
        for thread in self._threads:
            SERVING[thread] = self._desk
            thread.start()

    def submit(
        self,
        work: Work,
        *,
        priority: Priority = Priority.ENCODE,
        deadline_s: float | None = None,
        speculative: bool = False,
    ) -> Ticket:
        """A ticket for the work's result; `deadline_s` seconds from now it must have started."""
        if deadline_s is not None and not deadline_s >= 0:
            raise ValueError(f"deadline_s: expected at least 0, got {deadline_s}")
        lane = Priority.SPECULATIVE if speculative else priority
        return self._desk.accept(work, lane, math.inf if deadline_s is None else deadline_s)

    def run_next(self) -> bool:
        """Runs the most urgent work in this thread; False when none waits."""
        turn = self._desk.turn(is_waiting=False)
        self._desk.run(turn)
        return bool(turn)

    def stats(self) -> SchedulerStats:
        return self._desk.read_stats()

    @property
    def is_serving(self) -> bool:
        """Whether every compute thread lives."""
        return all(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """Cancels what waits, lets what runs finish, ends the threads."""
        self._finalizer()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


SERVING: dict[threading.Thread, Desk] = {}
"""Compute threads that live, and their desks."""


def compute(desk: Desk) -> None:
    """A compute thread's life."""
    try:
        serve(desk)
    finally:
        del SERVING[threading.current_thread()]


@atexit.register
def end_threads() -> None:
    """The interpreter's end waits for calls that run; what waits in line is cancelled.

    A thread that comes back from native code into an interpreter that is going is unwound through
    C++ frames that let nothing pass, and takes the process with it: "terminate called without an
    active exception". A scheduler nobody closed may be at work then, on a guess nobody waits for.
    """
    alive = {thread: desk for thread, desk in SERVING.copy().items() if thread.is_alive()}
    for desk in alive.values():
        desk.close()
    for thread in alive:
        thread.join()
