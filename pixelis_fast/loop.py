"""THE LOOP: a continuous batch of trajectories on a thread of its own.

One tick collects finished tools, admits queued requests, computes prompts and observations in
parts, and moves every running session by one token, all in one packed forward. Tools and pictures
are events: who waits for one costs no place in a forward, and both are worked on by other threads.
A loop without requests sleeps. Knows nothing of rewards; it stops at a `Trajectory`.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import torch

from pixelis_fast.grammar import ToolGrammar
from pixelis_fast.loop_batch import Batch
from pixelis_fast.loop_choosers import Chooser, Sampler, SpanSampler
from pixelis_fast.loop_patches import PatchDesk
from pixelis_fast.loop_run import OnEvent, RolloutTicket, Run
from pixelis_fast.loop_turns import Turns
from pixelis_fast.loop_types import (
    Call,
    Ended,
    Event,
    LoopClosedError,
    LoopConfig,
    LoopStats,
    Observed,
    QueueFullError,
    Request,
    Tokens,
)
from pixelis_fast.policy.engine import Engine, EngineStats
from pixelis_fast.policy.sampling import Sampling
from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.prompt import PromptBuilder
from pixelis_fast.tools import ToolBox
from pixelis_fast.types import RolloutStatus
from pixelis_fast.views import Views

__all__ = [
    "Call",
    "Ended",
    "Event",
    "Loop",
    "LoopClosedError",
    "LoopConfig",
    "LoopStats",
    "Observed",
    "QueueFullError",
    "Request",
    "RolloutTicket",
    "Tokens",
]
LOG = logging.getLogger(__name__)
COUNT_S = 0.25
Result = TypeVar("Result")


class Loop:
    """Runs requests to trajectories, many at once.

    Example:
        with Loop(engine, tools, tokenizer=…, prompt=…, grammar=…, views=…, patches=…) as loop:
            trajectory = loop.submit(Request(sample)).result()
    """

    def __init__(
        self,
        engine: Engine,
        tools: ToolBox,
        *,
        tokenizer: Tokenizer,
        prompt: PromptBuilder,
        grammar: ToolGrammar,
        views: Views,
        patches: PatchDesk,
        config: LoopConfig | None = None,
    ) -> None:
        """`patches` is what the engine loads pictures from."""
        self.engine, self.config = engine, config or LoopConfig()
        self.tokenizer = tokenizer
        vocab_size = engine.policy.config.text.vocab_size
        self.banned_ids = torch.tensor(sorted(tokenizer.banned_ids(vocab_size)))
        """Tokens that nobody may sample."""
        self._turns = Turns(tokenizer=tokenizer, prompt=prompt, grammar=grammar, views=views)
        self._batch = Batch(
            engine, tools, self._turns, patches, config=self.config, wake=self._wake
        )
        self._queue: deque[Run] = deque()
        self._news = threading.Condition()
        self._has_news = self._is_closing = self._takes_actions = False
        self._crash: BaseException | None = None
        self._actions: list[tuple[Callable[[], Any], Future[Any]]] = []
        self._users = 0
        self._life = threading.Lock()
        self._thread: threading.Thread | None = None
        self._count()

    def submit(
        self, request: Request, *, chooser: Chooser | None = None, on_event: OnEvent | None = None
    ) -> RolloutTicket:
        """Queues one request. Its events come on the loop's thread, which `on_event` holds up;
        `Ended` comes last and always.

        ValueError for a sample without a prompt, QueueFullError when too many wait already,
        LoopClosedError when the loop does not run. With a chooser the request's sampling only
        says what is recorded.
        """
        run = self._open(request, chooser, on_event)
        self._enqueue([run], most=self.config.max_queued)
        return RolloutTicket(run, self._wake)

    def submit_all(
        self, requests: Sequence[Request], *, choosers: Sequence[Chooser] | None = None
    ) -> list[RolloutTicket]:
        """Queues a batch at once: no forward sees a part of it, and no bound refuses it."""
        given: Sequence[Chooser | None] = choosers or [None] * len(requests)
        runs = [self._open(r, c, None) for r, c in zip(requests, given, strict=True)]
        self._enqueue(runs, most=None)
        return [RolloutTicket(run, self._wake) for run in runs]

    def sampler(self, request: Request) -> Chooser:
        """The default chooser of a request."""
        outside = self._sampler(request.sampling)
        if request.call_sampling is None:
            return outside
        inside = self._sampler(request.call_sampling)
        return SpanSampler(outside, inside, special=self.tokenizer.special)

    @property
    def is_running(self) -> bool:
        """Whether requests are taken."""
        return self._thread is not None and not self._is_closing

    def stats(self) -> LoopStats:
        """A copy, as of about now."""
        return self._batch.read_stats(queued=len(self._queue))

    def engine_stats(self) -> EngineStats:
        """As of the last quarter of a second of work; from any thread."""
        return self._engine_stats

    def between_ticks(self, action: Callable[[], Result]) -> Result:
        """Runs the action on the loop's thread while no forward runs, and gives what it gives.

        For what changes the engine beside a running loop: an update of the weights, say, with its
        `engine.publish`. Without a running loop it runs at once.
        """
        done: Future[Result] = Future()
        with self._news:
            # A loop that is closing may be in its last forward.
            is_served = self._takes_actions and self._thread is not None
            is_queued = is_served and threading.current_thread() is not self._thread
            if is_queued:
                self._actions.append((action, done))
                self._has_news = True
                self._news.notify_all()
        return done.result() if is_queued else action()

    def configure(self, config: LoopConfig) -> None:
        """Other limits from the next tick on; what is running goes on under them."""
        self.between_ticks(lambda: self._batch.configure(config))
        self.config = config

    def start(self) -> None:
        """Starts the thread, or joins those who use it already: each start wants a close."""
        with self._life:
            self._users += 1
            if self._users == 1:
                self._is_closing, self._crash = False, None
                self._takes_actions = True
                # The number of compute threads belongs to a thread, and is asked for by this one.
                threads = torch.get_num_threads()
                self._thread = threading.Thread(
                    target=self._serve, args=(threads,), name="rollout", daemon=True
                )
                self._thread.start()
                # Of a thread in the middle of a forward the interpreter's end makes an abort.
                atexit.register(self._end, self._thread)

    def close(self) -> None:
        """The last user's close ends the thread after its tick and cancels what is left."""
        with self._life:
            self._users = max(0, self._users - 1)
            if self._users or self._thread is None:
                return
            self._end(self._thread)
            self._thread = None
            atexit.unregister(self._end)

    def __enter__(self) -> Loop:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _end(self, thread: threading.Thread) -> None:
        """Lets the thread end after its tick; one that a fork left behind has ended."""
        if not thread.is_alive():
            return
        with self._news:
            self._is_closing = True
            self._news.notify_all()
        thread.join()

    def _open(self, request: Request, chooser: Chooser | None, on_event: OnEvent | None) -> Run:
        """In the caller's thread: a bad sample is the caller's error, and tokenising takes time."""
        chooser = chooser or self.sampler(request)
        return self._turns.open(request, chooser=chooser, on_event=on_event)

    def _sampler(self, sampling: Sampling) -> Sampler:
        return Sampler(sampling, seed=sampling.seed, banned_ids=self.banned_ids)

    def _enqueue(self, runs: Sequence[Run], *, most: int | None) -> None:
        with self._news:
            if not self.is_running:
                raise LoopClosedError(
                    "loop: expected a running one, got one that is closed"
                ) from self._crash
            if most is not None and len(self._queue) + len(runs) > most:
                raise QueueFullError(
                    f"queue: expected at most {most} waiting requests, got one more"
                )
            self._queue.extend(runs)
            self._has_news = True
            self._news.notify_all()

    def _wake(self) -> None:
        """Something happened that the loop's thread has to look at; from any thread."""
        with self._news:
            self._has_news = True
            self._news.notify_all()

    def _serve(self, threads: int) -> None:
        torch.set_num_threads(threads)
        try:
            while self._wait():
                self._tick()
        except BaseException as error:  # nobody may wait for ever on a loop that broke
            LOG.exception("loop: broke")
            self._crash = error
        self._end_all()

    def _tick(self) -> None:
        self._act()
        self._batch.collect()
        self._leave_queue()
        self._admit()
        if rows := self._batch.rows():
            self._batch.forward(rows)
        if not rows or time.monotonic() - self._counted_s > COUNT_S:
            self._count()

    def _act(self) -> None:
        with self._news:
            actions, self._actions = self._actions, []
        for action, done in actions:
            try:
                done.set_result(action())
            except BaseException as error:  # the caller's own, and it gets it
                done.set_exception(error)

    def _act_for_the_last_time(self) -> None:
        while True:
            self._act()
            with self._news:
                if not self._actions:
                    self._takes_actions = False
                    return

    def _count(self) -> None:
        self._engine_stats, self._counted_s = self.engine.stats(), time.monotonic()

    def _wait(self) -> bool:
        """Until there is something to do; False when the loop is closed. Costs no time."""
        can_go_on = bool(self._batch.rows())
        with self._news:
            self._news.wait_for(
                lambda: can_go_on or self._has_news or self._is_closing,
                timeout=self._batch.patience_s,
            )
            self._has_news = False
            return not self._is_closing

    def _leave_queue(self) -> None:
        with self._news:
            leaving = [run for run in self._queue if run.wants_cancel]
            for run in leaving:
                self._queue.remove(run)
        for run in leaving:
            self._batch.end(run, RolloutStatus.CANCELLED)

    def _admit(self) -> None:
        while self._batch.has_place:
            with self._news:
                if not self._queue:
                    return
                run = self._queue.popleft()
            self._batch.admit(run)

    def _end_all(self) -> None:
        """Whoever is left gets an end: cancelled, or what broke the loop."""
        with self._news:
            self._is_closing = True
            left = [*self._batch.live, *self._queue]
            self._queue.clear()
        self._act_for_the_last_time()
        status = RolloutStatus.CANCELLED if self._crash is None else RolloutStatus.FAILED
        for run in left:
            self._batch.end(run, status, self._crash)
        self._count()
