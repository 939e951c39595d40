"""One arm's way through all questions: what is answered stays, what is not is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from pixelis_fast.eval.arms import Answerer
from pixelis_fast.eval.cases import Case, CaseSet
from pixelis_fast.eval.journal import Entry, Journal
from pixelis_fast.eval.report import Told
from pixelis_fast.eval.results import ArmEntries
from pixelis_fast.eval.trace_html import trace_html
from pixelis_fast.rollout import first_failure
from pixelis_fast.types import Sample, Trajectory


@dataclass(frozen=True)
class Plan:
    """How often to ask, and how many questions at once.

    Example:
        Plan(seeds=(0, 1, 2))
    """

    seeds: tuple[int, ...] = (0,)
    """Each asks every question again; more than one needs a temperature above 0."""
    batch: int = 8
    """Questions at once; what a kill loses."""
    traces: int = 24
    """Questions whose traces stand in the report, from the first seed."""

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: expected one or more different ones, got {self.seeds}")
        if self.batch < 1 or self.traces < 0:
            raise ValueError(
                f"plan: expected batch >= 1 and traces >= 0, got {self.batch} and {self.traces}"
            )


class ArmRun:
    """One arm's way through all questions and seeds."""

    def __init__(self, answerer: Answerer, cases: CaseSet, plan: Plan, *, folder: Path) -> None:
        self._answerer, self._cases, self._plan = answerer, cases, plan
        self.name, self._folder = answerer.arm.name, folder
        self._journal = Journal(self._folder / "answers.jsonl")

    def go_on(self, bar: Progress) -> None:
        """Asks what is not answered yet."""
        entries = self._journal.entries()
        done = {(entry.case, entry.seed) for entry in entries if entry.is_answered}
        todo = [
            (seed, number, case)
            for seed in self._plan.seeds
            for number, case in enumerate(self._cases.cases)
            if (case.id, seed) not in done
        ]
        total = len(self._plan.seeds) * len(self._cases.cases)
        task = bar.add_task(self.name, total=total, completed=total - len(todo))
        for batch in batches(todo, self._plan.batch):
            self._ask(batch)
            bar.advance(task, len(batch))

    def _ask(self, batch: Sequence[tuple[int, int, Case]]) -> None:
        """Media leave the store with their batch: it holds a video's bytes in memory."""
        store = self._answerer.agent.tools.store
        samples = [case.sample(self._answerer.agent.tools) for _, _, case in batch]
        try:
            self._answer(batch, samples)
        finally:
            for media_id in {media.id for sample in samples for media in sample.media}:
                store.forget(media_id)

    def _answer(self, batch: Sequence[tuple[int, int, Case]], samples: Sequence[Sample]) -> None:
        seed, numbers = batch[0][0], [number for _, number, _ in batch]
        trajectories = self._answerer.run(samples, numbers=numbers, seed=seed)
        # One question may be too large for this machine; a whole batch means that nothing works.
        if len(trajectories) > 1:
            first_failure(trajectories)
        for number, trajectory in zip(numbers, trajectories, strict=True):
            if seed == self._plan.seeds[0] and number < self._plan.traces:
                write_whole(self._trace_path(number), self._trace(trajectory))
        self._journal.add(
            [
                Entry(case.id, seed, case.score(trajectory.answer), trajectory)
                for (_, _, case), trajectory in zip(batch, trajectories, strict=True)
            ]
        )

    def _trace(self, trajectory: Trajectory) -> str:
        agent = self._answerer.agent
        return trace_html(trajectory, agent.tokenizer, agent.tools.store)

    def _trace_path(self, number: int) -> Path:
        return self._folder / f"trace-{number:05d}.html"

    def outcome(self) -> ArmEntries:
        wanted = {case.id for case in self._cases.cases}
        entries = [e for e in self._journal.entries() if e.seed in self._plan.seeds]
        return ArmEntries(self.name, tuple(e for e in entries if e.case in wanted))

    def told(self) -> list[Told | None]:
        """Per case with a trace; None where an earlier part of the run kept none."""
        first = self._plan.seeds[0]
        by_case = {entry.case: entry for entry in self._journal.entries() if entry.seed == first}
        shown = self._cases.cases[: self._plan.traces]
        return [self._told(number, by_case[case.id]) for number, case in enumerate(shown)]

    def _told(self, number: int, entry: Entry) -> Told | None:
        path, trajectory = self._trace_path(number), entry.trajectory
        if not path.is_file():
            return None
        status = trajectory.status.value if trajectory.status else "running"
        return Told(self.name, trajectory.answer, entry.score, status, path.read_text())


def batches(
    todo: Sequence[tuple[int, int, Case]], size: int
) -> Iterator[Sequence[tuple[int, int, Case]]]:
    """Of one seed each."""
    start = 0
    while start < len(todo):
        stop = start
        while stop < min(start + size, len(todo)) and todo[stop][0] == todo[start][0]:
            stop += 1
        yield todo[start:stop]
        start = stop


def write_whole(path: Path, text: str) -> None:
    """The file whole or not at all."""
    draft = path.with_suffix(f"{path.suffix}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
