"""The learner of test-time RL: one query in, its answer and what it changed out (METHOD.md).

Rollout group, neighbours, vote, gate, update, corridor, canary, publish, average, memory, log: this
file is their order. What is not published is undone bit for bit. Everything is durable: a learner
that is killed goes on behind the last query whose outcome was kept (ttrl_journal.py).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pixelis_fast.audit import AuditError, AuditLog
from pixelis_fast.corridor import Verdict
from pixelis_fast.memory import Experience, MemoryKey, Neighbour
from pixelis_fast.phases.ttrl_group import Group, experience_of, hold_vote, lesson_of
from pixelis_fast.phases.ttrl_journal import AUDIT, Entry, Journal, Past, past_of
from pixelis_fast.phases.ttrl_lesson import Lesson
from pixelis_fast.phases.ttrl_parts import Parts
from pixelis_fast.phases.ttrl_state import State, StateFiles, check_settings, load_state
from pixelis_fast.phases.ttrl_types import TtrlConfig, TtrlEvent, TtrlStatus
from pixelis_fast.phases.ttrl_versions import Outcome, Versions
from pixelis_fast.policy.sampling import seed_of
from pixelis_fast.types import Sample, Trajectory

TENANT = ""
"""Of whoever gives no name: no client can call itself so."""


class TtrlLearner:
    """Answers queries and learns from them; any thread may call, one at a time goes on.

    Example:
        with TtrlLearner(config, parts) as learner:
            for sample in samples:
                event = learner.step(sample)
    """

    def __init__(self, config: TtrlConfig, parts: Parts) -> None:
        """Goes on from what `config.out` has: snapshot, journal and log."""
        self.config, self.parts = config, parts
        self.num_queries = self.num_updates = 0
        self._tenant_lessons: Counter[str] = Counter()
        self._pending: list[Lesson] = []
        self._is_whole = True
        """False from a query's start to its end: a step that broke off is not saved."""
        self._seconds: dict[str, float] = {}
        self._turn = threading.RLock()
        self._files, self._journal = StateFiles(config), Journal(Path(config.out))
        self.versions = Versions(
            parts.updater, parts.publisher, parts.canary, config.canary, self._files
        )
        self.audit = None if config.read_only else AuditLog(Path(config.out) / AUDIT)
        try:
            self._resume()
        except BaseException:
            if self.audit is not None:
                self.audit.close()
            raise

    def step(self, sample: Sample, *, tenant: str = TENANT) -> TtrlEvent:
        """One query, from its group to its line in the log."""
        with self._turn:
            self._seconds, self._is_whole = {}, False
            trajectories = self._run_group(sample, tenant)
            with self._timed("vote"):
                key = self.parts.keys(sample)
                neighbours = self._neighbours(key, tenant)
                group = hold_vote(trajectories, neighbours, self.parts.judge, self.config)
            event = self._event(sample, tenant, group, self._learn(group, tenant))
            event = replace(event, answers=tuple(t.answer for t in trajectories))
            self._store(event, experience_of(group, key, tenant, self.num_queries))
            self.num_queries += 1
            self._is_whole = True
            return replace(event, seconds=self._seconds)

    def rollback(self, version: str) -> float:
        """Serves an earlier version again and learns on from it; both are exact.

        Seconds for which no forward could run. ValueError for a version that is not kept.
        """
        with self._turn:
            pause_s = self.versions.rollback(version)
            self._pending.clear()
            if self.audit is not None:
                # First: what the log calls gone back to must not be served again by a restart.
                self._save(self.num_queries)
                fingerprint = self.parts.updater.bank.fingerprint()
                self.audit.append("rollback", version=version, fingerprint=fingerprint)
            self._is_whole = True
            return pause_s

    def close(self) -> None:
        """Saves what is whole; a query whose step broke off is asked again by the next run."""
        with self._turn:
            if self.audit is not None:
                if self._is_whole:
                    self._save(self.num_queries)
                self.audit.close()

    def __enter__(self) -> TtrlLearner:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _run_group(self, sample: Sample, tenant: str) -> list[Trajectory]:
        size = self.config.group
        with self._timed("rollout"):
            return self.parts.run(
                [sample] * size,
                seed=seed_of(self.config.seed, self.num_queries * size),
                temperature=self.config.temperature,
                tenant=tenant,
            )

    def _neighbours(self, key: MemoryKey, tenant: str) -> list[Neighbour]:
        if not self.config.retrieval:
            return []
        return self.parts.memory.nearest(key, self.config.neighbours, tenant)

    def _learn(self, group: Group, tenant: str) -> Outcome:
        config, budget = self.config, self.config.lessons_per_tenant
        if config.read_only:
            return Outcome(TtrlStatus.READ_ONLY, "the learner is read-only", {})
        if group.abstained:
            reason = f"confidence {group.confidence:.3f}, gate {config.voting.gate}"
            told = f"{reason}; {group.broken}" if group.broken else reason
            return Outcome(TtrlStatus.ABSTAINED, told, {})
        if budget is not None:
            if self._tenant_lessons[tenant] >= budget:
                return Outcome(TtrlStatus.OVER_BUDGET, f"{budget} lessons are spent", {})
            self._tenant_lessons[tenant] += 1
        return self._take(lesson_of(group, tenant, config))

    def _take(self, lesson: Lesson) -> Outcome:
        """Into the update that it completes, or among those that wait for one."""
        config = self.config
        self.parts.updater.await_update(lesson)
        self._pending.append(lesson)
        if len(self._pending) < config.queries_per_update:
            reason = f"{len(self._pending)} of {config.queries_per_update} queries"
            return Outcome(TtrlStatus.WAITING, reason, {})
        outcome = self._update(self._pending)
        self._pending = []
        self.parts.updater.let_go()
        return outcome

    def _update(self, lessons: Sequence[Lesson]) -> Outcome:
        """Whatever breaks off before it is served is undone: nothing ungated may be learned on.

        The lessons before the last go on waiting; the last one's query is asked again.
        """
        self.num_updates += 1
        before = self.versions.serving
        try:
            return self._attempt(lessons)
        except BaseException:
            is_served = self.versions.serving != before
            self._pending = [] if is_served else self._pending[:-1]
            if not is_served:
                self.parts.updater.undo()
            raise

    def _attempt(self, lessons: Sequence[Lesson]) -> Outcome:
        with self._timed("update"):
            step = self.parts.updater.learn(lessons)
        details = step.details(self.num_updates) | {"seconds": self._seconds["update"]}
        decision = step.decision
        if step.stale is not None:
            return Outcome(TtrlStatus.STALE, step.stale, details)
        if decision is None:
            reason = f"gradient norm {step.gradient_norm}, loss {step.losses['loss']}"
            return Outcome(TtrlStatus.SKIPPED, reason, details)
        if decision.verdict is Verdict.DROP:
            self.parts.updater.undo()
            return Outcome(TtrlStatus.DROPPED, decision.reason, details)
        assert self.audit is not None, "a read-only learner makes no update"
        with self._timed("publish"):
            return self.versions.offer(self.num_updates, decision.reason, details, self.audit)

    def _event(self, sample: Sample, tenant: str, group: Group, outcome: Outcome) -> TtrlEvent:
        return TtrlEvent(
            query=self.num_queries,
            sample_id=sample.id,
            tenant=tenant,
            status=outcome.status,
            reason=outcome.reason,
            answer=None if group.vote is None else group.vote.answer,
            confidence=group.confidence,
            num_answered=sum(t.answer is not None for t in group.trajectories),
            version=self.versions.serving,
            update=outcome.details,
        )

    def _store(self, event: TtrlEvent, experience: Experience | None) -> None:
        """First whole in the journal: from then on no kill makes its query be asked again."""
        if self.config.read_only:
            return
        entry = Entry(event.to_json(), experience, in_snapshot=self._is_due(event))
        with self._timed("save"):
            self._journal.write(entry)
            if entry.in_snapshot:
                self._save(event.query + 1)
        self._finish(entry)

    def _is_due(self, event: TtrlEvent) -> bool:
        """A lesson that waits is part of the state like an update."""
        is_taught = bool(event.update) or event.status is TtrlStatus.WAITING
        return is_taught and self.num_updates % self.config.snapshot_every == 0

    def _finish(self, entry: Entry) -> None:
        """Memory and log; where a kill came between, the memory has it already."""
        given = entry.experience
        with self._timed("remember"):
            if given is not None and (given.tenant, given.id) not in self.parts.memory:
                self.parts.memory.add(given)
        assert self.audit is not None, "a read-only learner stores nothing"
        with self._timed("log"):
            self.audit.append("query", **entry.event)
            self._journal.clear()

    def _save(self, num_queries: int) -> None:
        state = {
            "updater": self.parts.updater.state(),
            "versions": self.versions.state(),
            "waiting": [lesson.state() for lesson in self._pending],
            "num_queries": num_queries,
            "num_updates": self.num_updates,
            "tenant_lessons": dict(self._tenant_lessons),
        }
        self._files.save(state)

    def _resume(self) -> None:
        state = load_state(self.config)
        if state is not None:
            self._restore(state)
        past = past_of(Path(self.config.out), num_saved=self.num_queries)
        entry = self._journal.unfinished(past, num_saved=self.num_queries)
        if entry is not None:
            past.take_query(entry.event, num_saved=self.num_queries)
        if past.num_queries < self.num_queries:
            raise AuditError(
                f"{self.config.out}: expected a log of the {self.num_queries} queries that its "
                f"snapshot has behind it, got {past.num_queries}: lines were taken from its end"
            )
        if state is None and past.num_queries:
            self._check(past)
        self._go_on_behind(past)
        if self.audit is None:
            return
        if entry is not None:
            self._finish(entry)
        self.audit.append(
            "resume" if past.num_queries or state is not None else "start",
            query=self.num_queries,
            update=self.num_updates,
            base=self.versions.base,
            version=self.versions.serving,
            fingerprint=self.parts.updater.bank.fingerprint(),
            settings=self.config.run_settings(),
        )

    def _restore(self, state: State) -> None:
        self.parts.updater.restore(state["updater"])
        self.versions.restore(state["versions"])
        self._pending = [Lesson.of(each) for each in state["waiting"]]
        self.num_queries, self.num_updates = state["num_queries"], state["num_updates"]
        self._tenant_lessons = Counter(state["tenant_lessons"])

    def _check(self, past: Past) -> None:
        """A run that was killed before its first snapshot is known from its log alone."""
        check_settings(past.settings or {}, self.config)
        self.versions.check_base(past.base)

    def _go_on_behind(self, past: Past) -> None:
        """No answer is given twice, no name of a version is used twice, no budget begins anew."""
        self.num_queries = max(self.num_queries, past.num_queries)
        self.num_updates = max(self.num_updates, past.num_updates)
        if self.config.lessons_per_tenant is not None:
            self._tenant_lessons += past.lessons

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start_s = time.perf_counter()
        yield
        self._seconds[stage] = time.perf_counter() - start_s
