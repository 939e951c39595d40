"""The trajectories in progress, tick by tick: who goes into the next forward, and what follows.

Called by one thread and knows none: who wakes it when a tool or a picture is done is told to it.
An error that belongs to one run ends that run alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from torch import Tensor

from pixelis_fast.loop_ahead import Ahead
from pixelis_fast.loop_groups import follow, hand_over, leader_among
from pixelis_fast.loop_patches import PatchDesk
from pixelis_fast.loop_pictures import Pictures
from pixelis_fast.loop_run import Run
from pixelis_fast.loop_sessions import Sessions
from pixelis_fast.loop_turns import Turns
from pixelis_fast.loop_types import Call, Ended, LoopConfig, LoopStats, Observed
from pixelis_fast.policy.engine import Chunk, Engine
from pixelis_fast.tools import ToolBox, error_observation
from pixelis_fast.turns import Turn
from pixelis_fast.types import Observation, RolloutStatus

LOG = logging.getLogger(__name__)
END_COUNTERS = {RolloutStatus.CANCELLED: "cancelled", RolloutStatus.FAILED: "failed"}


class Batch:
    """Admits, collects, computes, ends."""

    def __init__(
        self,
        engine: Engine,
        tools: ToolBox,
        turns: Turns,
        patches: PatchDesk,
        *,
        config: LoopConfig,
        wake: Callable[[], None],
    ) -> None:
        self.stats = LoopStats()
        self.live: list[Run] = []
        """In order of admission."""
        self._engine, self._tools, self._turns = engine, tools, turns
        self._config, self._wake = config, wake
        self._pictures = Pictures(engine, patches, self.live, wake=wake)
        self._sessions = Sessions(engine, self.live, self.stats)
        self._ahead = Ahead(tools, config, self.stats)

    def configure(self, config: LoopConfig) -> None:
        """Between two forwards; what is cut already stays cut as it is."""
        self._config = self._ahead.config = config

    @property
    def has_place(self) -> bool:
        return len(self.live) < self._config.max_sessions

    @property
    def patience_s(self) -> float | None:
        """Until the next deadline; None when nobody has one."""
        if not self.live:
            return None
        return max(0.0, min(run.deadline_s for run in self.live) - time.monotonic())

    def read_stats(self, *, queued: int) -> LoopStats:
        """A copy; from any thread."""
        live = list(self.live)
        return replace(
            self.stats,
            running=sum(not run.is_waiting for run in live),
            waiting_for_tools=sum(run.tool is not None for run in live),
            queued=queued,
            evicted_now=sum(run.is_evicted for run in live),
        )

    def admit(self, run: Run) -> None:
        """Takes a queued run in."""
        self.live.append(run)
        run.deadline_s = time.monotonic() + run.request.max_time_s
        run.trajectory.policy_version = self._engine.version
        with self._guard(run):
            run.parts = self._cut_prompt(run)
            leader = leader_among(self.live, run) if self._config.share_prompts else None
            if leader is None:
                self._pictures.begin(run)
            else:
                follow(run, leader)
            self._ahead.arrived(run)

    def collect(self) -> None:
        """Finished tools and pictures, cancellations, deadlines."""
        now_s = time.monotonic()
        for run in list(self.live):
            with self._guard(run):
                if run.wants_cancel:
                    self.end(run, RolloutStatus.CANCELLED)
                elif now_s >= run.deadline_s:
                    self.end(run, RolloutStatus.TRUNCATED_MAX_TIME)
                elif run.tool is not None and run.tool.done():
                    self._observe(run)
                else:
                    self._pictures.look(run)

    def rows(self) -> list[Run]:
        """Who goes into the next forward, the oldest first."""
        ready, room = self._ready(), self._config.prefill_tokens
        if room is None:
            return ready
        rows, used = [], 0
        for run in ready:
            if run.parts[0].opens_turn and used >= room:
                continue
            size = self._sessions.num_new(run) if run.parts[0].opens_turn else 0
            # The first always goes: a picture may be larger than what one forward should hold.
            if size == 0 or used == 0 or used + size <= room:
                rows.append(run)
                used += size
        return rows

    def forward(self, rows: Sequence[Run]) -> None:
        """One packed forward over the rows, and what their new logits lead to."""
        spans = self._engine.spans()
        try:
            going, logits_BV = self._sessions.extend(rows, spans=spans)
        except Exception as error:  # of any kind: it is some row's, and the others go on
            self._forward_each(rows, error)
            return
        self.stats.ticks += 1
        self.stats.rows += len(going)
        for run, logits_V in zip(going, logits_BV, strict=True):
            run.spans.merge(spans.ms)
            part = run.parts.pop(0)
            if not run.parts:
                self._continue(run, logits_V, opens_turn=part.opens_turn)

    def end(self, run: Run, status: RolloutStatus, error: BaseException | None = None) -> None:
        """Frees what the run held; `Ended` is its last event.

        Once: who inherits a prompt may end while the run that leaves it does.
        """
        if not run.is_live:
            return
        if status is RolloutStatus.ANSWERED:
            keep_embedding(run)
        self._free(run)
        run.error = error
        self._turns.close(run, status)
        counter = END_COUNTERS.get(status, "finished")
        setattr(self.stats, counter, getattr(self.stats, counter) + 1)
        self._tell_end(run)

    def _free(self, run: Run) -> None:
        if run.tool is not None:
            run.tool.cancel()
            run.tool = None
        self._ahead.drop(run)
        heir = hand_over(run)
        if heir is not None:
            with self._guard(heir):
                self._pictures.begin(heir)
        self._sessions.close(run)
        self._pictures.drop(run)
        if run in self.live:
            self.live.remove(run)

    def _tell_end(self, run: Run) -> None:
        try:
            run.emit(Ended(run.trajectory))
        except Exception:  # told to the log: how the trajectory ended is settled
            LOG.exception("on_event: expected no error at the end of a trajectory")
        finally:
            run.ended.set()
            self._wake()

    def _forward_each(self, rows: Sequence[Run], error: Exception) -> None:
        """A forward that fails changes nothing: alone, only the row at fault fails again."""
        if len(rows) > 1:
            LOG.warning(
                "forward: expected logits of %d rows, got an error; each goes alone",
                len(rows),
                exc_info=error,
            )
            for run in rows:
                self.forward([run])
        else:
            self.end(rows[0], RolloutStatus.FAILED, error)

    def _ready(self) -> list[Run]:
        """Runs put aside come back when something was freed, or when nobody else could go on."""
        ready = [run for run in self.live if run.is_ready]
        if self._sessions.has_room or not ready:
            self._sessions.has_room = False
            for run in self.live:
                run.is_preempted = False
            ready = [run for run in self.live if run.is_ready]
        if any(run.is_waiting for run in self.live if run.request.in_step):
            return [run for run in ready if not run.request.in_step]
        return ready

    def _continue(self, run: Run, logits_V: Tensor, *, opens_turn: bool) -> None:
        """The prompt, observation or token is computed; its group starts from here too."""
        self._pictures.shown(run)
        followers, run.followers = run.followers, []
        for follower in followers:
            follower.leader = None
            with self._guard(follower):
                if self._sessions.fork(follower, run):
                    follower.parts = []
                    self.stats.forked += 1
                else:
                    self._pictures.begin(follower)
        for each in (run, *followers):
            if each.is_live and not each.parts:
                with self._guard(each):
                    if opens_turn:
                        keep_embedding(each)
                    self._advance(each, logits_V)

    def _advance(self, run: Run, logits_V: Tensor) -> None:
        turn = self._turns.advance(run, logits_V)
        self.stats.tokens += len(run.parts[0].ids)
        self.stats.forced += len(run.parts[0].ids) - 1
        if any(text in run.parser.text for text in run.request.stop):
            self.end(run, RolloutStatus.STOPPED)
        elif turn is not None:
            self._end_turn(run, turn)
        else:
            self._ahead.look(run)
            self._check_tokens(run)

    def _end_turn(self, run: Run, turn: Turn) -> None:
        if turn.answer is not None:
            self.end(run, RolloutStatus.ANSWERED)
        elif run.request.hands_over_calls:
            self.end(run, RolloutStatus.CALLED)
        elif len(run.trajectory.steps) > run.request.max_steps:
            self.end(run, RolloutStatus.TRUNCATED_MAX_STEPS)
        elif turn.call is None:
            self._ahead.refuse(run)
            self._append(run, error_observation(turn.error or "expected a tool call or an answer"))
        else:
            run.tool = self._ahead.claim(run, turn.call) or self._tools.submit(
                turn.call, run.workspace
            )
            run.emit(Call(len(run.trajectory.steps) - 1, turn.call))
            run.tool.when_done(self._wake)

    def _observe(self, run: Run) -> None:
        """Its tool is done."""
        pending, run.tool = run.tool, None
        call = run.trajectory.steps[-1].call
        assert pending is not None
        assert call is not None
        observation = pending.result()
        for part, milliseconds in observation.stage_ms.items():
            run.spans.add(f"tool.{call.operation}.{part}", milliseconds)
        self._append(run, observation)

    def _append(self, run: Run, observation: Observation) -> None:
        self._turns.observe(run, observation)
        run.parts = self._cut(run.parts)
        run.emit(Observed(len(run.trajectory.steps) - 1, observation))
        self._pictures.begin(run)
        self._check_tokens(run)

    def _cut_prompt(self, run: Run) -> list[Chunk]:
        """The same of a prompt: what a kept one supplies costs nothing, and goes with the first."""
        most = self._config.prefill_tokens
        if most is None:
            return list(run.parts)
        [prompt] = run.parts
        supplied = len(prompt.ids) - self._sessions.num_new(run)
        return prompt.cut(most, first=supplied + most)

    def _cut(self, parts: Sequence[Chunk]) -> list[Chunk]:
        """What opens a turn, in parts that fit into one forward."""
        most = self._config.prefill_tokens
        if most is None:
            return list(parts)
        return [piece for part in parts for piece in part.cut(most)]

    def _check_tokens(self, run: Run) -> None:
        if run.is_live and run.num_generated >= run.request.max_tokens:
            self.end(run, RolloutStatus.TRUNCATED_MAX_TOKENS)

    @contextmanager
    def _guard(self, run: Run) -> Iterator[None]:
        """An error in here ends this run and no other.

        Of any kind: choosers, listeners, tools and pictures are other people's code. After the
        run's end nobody is left to get it, so that it is the loop's own and breaks the loop.
        """
        try:
            yield
        except Exception as error:
            if not run.is_live:
                raise
            self.end(run, RolloutStatus.FAILED, error)


def keep_embedding(run: Run) -> None:
    """The last step is computed, its observation included; before the first step, the prompt."""
    if not run.request.embeddings or run.session is None or run.session.num_summed == 0:
        return
    embedding_D = run.session.take_embedding()
    if run.trajectory.steps:
        run.trajectory.steps[-1].embedding = tuple(embedding_D.tolist())
