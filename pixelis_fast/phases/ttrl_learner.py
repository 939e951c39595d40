"""The learner of test-time RL: one query in, its answer and what it changed out (METHOD.md).

Rollout group, neighbours, vote, gate, update, corridor, canary, publish, average, memory, log: this
file is their order. What is not published is undone bit for bit. Everything is durable: a learner
that is killed goes on from its last snapshot, and what came after it is asked again.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pixelis_fast.audit import AuditLog
from pixelis_fast.corridor import Verdict
from pixelis_fast.memory import MemoryKey, Neighbour
from pixelis_fast.phases.ttrl_canary import Canary
from pixelis_fast.phases.ttrl_group import Group, experience_of, hold_vote, lesson_of
from pixelis_fast.phases.ttrl_serving import Publisher
from pixelis_fast.phases.ttrl_state import load_state, save_state
from pixelis_fast.phases.ttrl_types import (
    Judges,
    MakesKeys,
    Remembers,
    RunGroup,
    TtrlConfig,
    TtrlEvent,
    TtrlStatus,
)
from pixelis_fast.phases.ttrl_update import Lesson, Step, Updater
from pixelis_fast.phases.ttrl_versions import Outcome, Versions
from pixelis_fast.policy.sampling import seed_of
from pixelis_fast.types import Sample, Trajectory

AUDIT = "audit.jsonl"
TENANT = "default"


@dataclass(frozen=True)
class Parts:
    """What a learner works with; `ttrl.parts_of(agent, …)` makes them.

    Example:
        TtrlLearner(config, Parts(updater, run, judge, keys, memory, publisher))
    """

    updater: Updater
    run: RunGroup
    judge: Judges
    keys: MakesKeys
    memory: Remembers
    publisher: Publisher
    canary: Canary | None = None


class TtrlLearner:
    """Answers queries and learns from them; any thread may call, one at a time goes on.

    Example:
        with TtrlLearner(config, parts) as learner:
            for sample in samples:
                event = learner.step(sample)
    """

    def __init__(self, config: TtrlConfig, parts: Parts) -> None:
        """Goes on from the newest snapshot in `config.out`."""
        self.config, self.parts = config, parts
        self.num_queries = self.num_updates = 0
        self._tenant_updates: Counter[str] = Counter()
        self._pending: list[Lesson] = []
        self._is_whole = True
        """False from a query's start to its end: a step that broke off is not saved."""
        self._seconds: dict[str, float] = {}
        self._turn = threading.RLock()
        self.versions = Versions(parts.updater, parts.publisher, parts.canary, config.canary)
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
            outcome = self._learn(group, tenant)
            if not self.config.read_only:
                self._remember(group, key, tenant)
            event = self._event(sample, tenant, group, outcome)
            self.num_queries += 1
            self._log(event)
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
                fingerprint = self.parts.updater.bank.fingerprint()
                self.audit.append("rollback", version=version, fingerprint=fingerprint)
                self._save()
            self._is_whole = True
            return pause_s

    def close(self) -> None:
        """Saves what is whole.

        Queries that wait for an update, or whose step broke off, are asked again by the next run.
        """
        with self._turn:
            if self.audit is not None:
                if self._is_whole and not self._pending:
                    self._save()
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
        config, budget = self.config, self.config.updates_per_tenant
        if config.read_only:
            return Outcome(TtrlStatus.READ_ONLY, "the learner is read-only", {})
        if group.abstained:
            reason = f"confidence {group.confidence:.3f}, gate {config.voting.gate}"
            told = f"{reason}; {group.broken}" if group.broken else reason
            return Outcome(TtrlStatus.ABSTAINED, told, {})
        if budget is not None:
            if self._tenant_updates[tenant] >= budget:
                return Outcome(TtrlStatus.OVER_BUDGET, f"{budget} updates are spent", {})
            self._tenant_updates[tenant] += 1
        return self._take(lesson_of(group, tenant, config))

    def _take(self, lesson: Lesson) -> Outcome:
        """Into the update that it completes, or among those that wait for one."""
        config = self.config
        self.parts.updater.await_update(lesson)
        self._pending.append(lesson)
        if len(self._pending) < config.queries_per_update:
            reason = f"{len(self._pending)} of {config.queries_per_update} queries"
            return Outcome(TtrlStatus.WAITING, reason, {})
        lessons, self._pending = self._pending, []
        return self._update(lessons)

    def _update(self, lessons: Sequence[Lesson]) -> Outcome:
        """Whatever breaks off before it is served is undone: nothing ungated may be learned on."""
        self.num_updates += 1
        before = self.versions.serving
        try:
            return self._attempt(lessons)
        except BaseException:
            if self.versions.serving == before:
                self.parts.updater.undo()
            raise

    def _attempt(self, lessons: Sequence[Lesson]) -> Outcome:
        with self._timed("update"):
            step = self.parts.updater.learn(lessons)
        details = details_of(step, self.num_updates) | {"seconds": self._seconds["update"]}
        decision = step.decision
        if decision is None:
            reason = f"gradient norm {step.gradient_norm}, loss {step.losses['loss']}"
            return Outcome(TtrlStatus.SKIPPED, reason, details)
        if decision.verdict is Verdict.DROP:
            self.parts.updater.undo()
            return Outcome(TtrlStatus.DROPPED, decision.reason, details)
        assert self.audit is not None, "a read-only learner makes no update"
        with self._timed("publish"):
            return self.versions.offer(self.num_updates, decision.reason, details, self.audit)

    def _remember(self, group: Group, key: MemoryKey, tenant: str) -> None:
        """After a crash a query is asked again; its experience may be there already."""
        experience = experience_of(group, key, tenant, self.num_queries)
        with self._timed("remember"):
            if experience is not None and (tenant, experience.id) not in self.parts.memory:
                self.parts.memory.add(experience)

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

    def _log(self, event: TtrlEvent) -> None:
        if self.audit is None:
            return
        with self._timed("log"):
            self.audit.append("query", **event.to_json())
            if event.update and self.num_updates % self.config.snapshot_every == 0:
                self._save()

    def _save(self) -> None:
        state = {
            "updater": self.parts.updater.state(),
            "versions": self.versions.state(),
            "num_queries": self.num_queries,
            "num_updates": self.num_updates,
            "tenant_updates": dict(self._tenant_updates),
        }
        save_state(self.config, state)

    def _resume(self) -> None:
        state = load_state(self.config)
        if state is not None:
            self.parts.updater.restore(state["updater"])
            self.versions.restore(state["versions"])
            self.num_queries, self.num_updates = state["num_queries"], state["num_updates"]
            self._tenant_updates = Counter(state["tenant_updates"])
        if self.audit is not None:
            self.audit.append(
                "start" if state is None else "resume",
                query=self.num_queries,
                update=self.num_updates,
                version=self.versions.serving,
                fingerprint=self.parts.updater.bank.fingerprint(),
                settings=self.config.run_settings(),
            )

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start_s = time.perf_counter()
        yield
        self._seconds[stage] = time.perf_counter() - start_s


def details_of(step: Step, number: int) -> dict[str, Any]:
    """As the log has it."""
    found: dict[str, Any] = {
        "number": number,
        "losses": step.losses,
        "gradient_norm": step.gradient_norm,
    }
    decision = step.decision
    if decision is None:
        return found
    return found | {
        "verdict": decision.verdict.value,
        "step": decision.step,
        "drift": decision.drift.to_json(),
        "full_drift": decision.full.to_json(),
        "num_measured": decision.num_measured,
    }
