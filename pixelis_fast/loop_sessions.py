"""The engine's sessions of runs: opened, extended, forked, put aside when there is no room, freed.

Room is made where it costs least: first the sessions that wait for a tool, the youngest first, then
the youngest that run. What is put aside goes on without recomputing anything; trajectories and tool
results are not touched. A run that does not fit with everything else aside has failed.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pixelis_fast.loop_run import Run
from pixelis_fast.loop_types import LoopStats
from pixelis_fast.policy.engine import Engine, KVBudgetError, Session
from pixelis_fast.spans import Spans


class Sessions:
    """Who has keys and values in the engine, and who made room.

    `live` holds every admitted run, the oldest first.
    """

    def __init__(self, engine: Engine, live: list[Run], stats: LoopStats) -> None:
        self._engine, self._live, self._stats = engine, live, stats
        self.has_room = False
        """Something was freed since this was last asked."""

    def extend(self, rows: Sequence[Run], *, spans: Spans) -> tuple[list[Run], Tensor]:
        """The rows that went through, fewer when there was no room, and their logits_BV.

        KVBudgetError when a row does not fit alone.
        """
        going = list(rows)
        while True:
            try:
                sessions = [self._of(run) for run in going]
                parts = [run.parts[0] for run in going]
                logits_BV = self._engine.extend(sessions, parts, spans=spans)
            except KVBudgetError:
                if not self._make_room(going):
                    raise
                continue
            for run in going:
                run.is_evicted = False
            return going, logits_BV

    def num_new(self, run: Run) -> int:
        """Tokens of its next part that no kept prompt supplies."""
        request = run.request
        return self._engine.num_new(
            run.parts[0], session=run.session, salt=request.salt, under=request.under
        )

    def fork(self, run: Run, leader: Run) -> bool:
        """False when there is no room for a copy: the run then computes its prompt itself."""
        assert leader.session is not None
        while True:
            try:
                self._begin(run, self._engine.fork(leader.session))
                return True
            except KVBudgetError:
                if not self._evict_waiting():
                    return False

    def _of(self, run: Run) -> Session:
        """The run's session, opened where it has none yet."""
        if run.session is None:
            request = run.request
            return self._begin(run, self._engine.open(salt=request.salt, under=request.under))
        return run.session

    def _begin(self, run: Run, session: Session) -> Session:
        """From here on the version is settled, whatever is published."""
        run.session, run.trajectory.policy_version = session, session.version
        return session

    def close(self, run: Run) -> None:
        if run.session is not None:
            self._engine.close(run.session)
            run.session, run.is_evicted, self.has_room = None, False, True

    def _make_room(self, going: list[Run]) -> bool:
        """One session less; the youngest row stays behind when nobody waits."""
        if self._evict_waiting() or self._evict_idle(going):
            return True
        if len(going) == 1:
            return False
        youngest = going.pop()
        youngest.is_preempted = True
        self._stats.preempted += 1
        self._put_aside(youngest)
        return True

    def _evict_waiting(self) -> bool:
        return self._evict([run for run in self._live if run.is_waiting])

    def _evict_idle(self, going: Sequence[Run]) -> bool:
        return self._evict([run for run in self._live if run not in going])

    def _evict(self, candidates: Sequence[Run]) -> bool:
        """The youngest candidate that still lies in the engine's memory."""
        for run in reversed(candidates):
            if run.session is not None and not run.is_evicted:
                self._stats.evicted += 1
                self._put_aside(run)
                return True
        return False

    def _put_aside(self, run: Run) -> None:
        if run.session is not None and not run.is_evicted:
            self._engine.evict(run.session)
            run.is_evicted = True
