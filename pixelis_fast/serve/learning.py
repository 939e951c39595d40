"""`pixelis serve --ttrl`: learns from what was answered, beside the answering.

A finished completion's question goes into a short queue; a thread of its own runs the learner's
group on the serving loop when nobody waits there, and updates at a lower priority. Serving sees a
publish as a pointer's change between two forwards. A full queue forgets the newest question: the
server never waits for its learner.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from pixelis_fast.phases.ttrl import open_memory, parts_of
from pixelis_fast.phases.ttrl_learner import TtrlLearner
from pixelis_fast.phases.ttrl_types import TtrlConfig, TtrlStatus
from pixelis_fast.serve.service import Service
from pixelis_fast.types import RolloutStatus, Sample, Trajectory

LOG = logging.getLogger(__name__)
QUEUE = 64
PATIENCE_S = 2.0
"""A group waits so long for a moment without requests, and then runs beside them."""
POLL_S = 0.01
NICE = 10
"""Added to the learner thread's niceness, so that a busy core is the requests'."""
NICEST = 19


@dataclass
class LearningStats:
    """Counted since the server started."""

    heard: int = 0
    forgotten: int = 0
    """Came while the queue was full."""
    steps: int = 0
    published: int = 0
    abstained: int = 0
    stale: int = 0
    """Updates refused because what was published is not what spoke: above 0, look at the log."""
    failed: int = 0
    """1 once an error ended the learning; the server goes on without."""


class ServingLearner:
    """A learner that listens to a server.

    Example:
        with ServingLearner(service, learner):
            ...  # requests
    """

    def __init__(self, service: Service, learner: TtrlLearner) -> None:
        self._service, self.learner = service, learner
        self._queue: queue.Queue[tuple[Sample, str] | None] = queue.Queue(QUEUE)
        self._thread = threading.Thread(target=self._run, name="ttrl", daemon=True)
        self._is_closing = False
        self._hearing = threading.Lock()
        """Between `hear` and whoever stops it: what is heard is seen by the last release."""
        self._stats = LearningStats()

    def stats(self) -> LearningStats:
        """A copy, as of about now."""
        return replace(self._stats)

    def hear(self, trajectory: Trajectory, tenant: str) -> None:
        """Called while the request still holds its media; never waits."""
        if trajectory.status is not RolloutStatus.ANSWERED:
            return
        with self._hearing:
            if not self._is_closing:
                self._take_in(trajectory.sample, tenant)

    def _take_in(self, sample: Sample, tenant: str) -> None:
        media = [each.id for each in sample.media]
        self._service.ledger.hold(media)
        self._stats.heard += 1
        try:
            self._queue.put_nowait((sample, tenant))
        except queue.Full:
            self._stats.forgotten += 1
            self._service.ledger.release(media)

    def __enter__(self) -> ServingLearner:
        self._service.listeners.append(self.hear)
        self._service.stats["ttrl"] = self.stats
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """After the query at hand; what waits is forgotten."""
        self._service.listeners.remove(self.hear)
        self._stop_hearing()
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            stand_back()
            while (heard := self._queue.get()) is not None:
                self._step(*heard)
        except Exception:
            LOG.exception("learner: stopped; the server goes on with what it has published")
            self._stats.failed = 1
            self._stop_hearing()

    def _step(self, sample: Sample, tenant: str) -> None:
        try:
            self._wait_for_quiet()
            event = self.learner.step(sample, tenant=tenant)
        finally:
            self._service.ledger.release([media.id for media in sample.media])
        self._stats.steps += 1
        self._stats.published += event.status is TtrlStatus.PUBLISHED
        self._stats.abstained += event.status is TtrlStatus.ABSTAINED
        self._stats.stale += event.status is TtrlStatus.STALE

    def _wait_for_quiet(self) -> None:
        end_s = time.monotonic() + PATIENCE_S
        while self._service.admission.num_inside and time.monotonic() < end_s:
            time.sleep(POLL_S)

    def _stop_hearing(self) -> None:
        """From here on the queue only empties."""
        with self._hearing:
            self._is_closing = True
        while True:
            try:
                heard = self._queue.get_nowait()
            except queue.Empty:
                return
            if heard is not None:
                self._service.ledger.release([media.id for media in heard[0].media])


def stand_back() -> None:
    """This thread computes alone, and only what a busy core has left."""
    torch.set_num_threads(1)
    thread = threading.get_native_id()
    niceness = os.getpriority(os.PRIO_PROCESS, thread)
    os.setpriority(os.PRIO_PROCESS, thread, min(NICEST, niceness + NICE))


@contextmanager
def learning(
    service: Service, config: TtrlConfig, *, canary: Sequence[Sample] = ()
) -> Iterator[ServingLearner]:
    """Memory, learner and thread for as long as the server runs.

    Example:
        make_app(agent, ServeConfig(), beside=partial(learning, config=TtrlConfig(out="runs/live")))
    """
    agent = service.agent
    # Never let go: a client that sends the same picture would take it away with its request.
    service.ledger.hold([media.id for sample in canary for media in sample.media])
    with (
        open_memory(agent, config) as memory,
        TtrlLearner(config, parts_of(agent, config, memory, canary=canary)) as learner,
        ServingLearner(service, learner) as listening,
    ):
        yield listening
