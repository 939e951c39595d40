"""Asks every question of a set to every arm, and writes results.json and report.html.

A run goes on where it was stopped: its folder keeps one line per answer and one piece of HTML per
trace. The first arm is the baseline.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pixelis_fast.eval.arm_run import ArmRun, Plan, write_whole
from pixelis_fast.eval.arms import Answerer, Arm, open_agents
from pixelis_fast.eval.cases import CaseSet, benchmark_cases, file_cases
from pixelis_fast.eval.report import CaseTraces, report_html
from pixelis_fast.eval.results import results

RESULTS, REPORT, SETTINGS = "results.json", "report.html", "settings.json"


@dataclass(frozen=True)
class EvalConfig:
    """What to ask, whom, and where to write.

    Example:
        EvalConfig(out=Path("runs/vstar"), benchmark="vstar", folder=Path("vstar_bench"),
                   arms=(Arm("baseline", base), Arm("ours", ours)))
    """

    out: Path
    arms: tuple[Arm, ...]
    """The first is the baseline."""
    benchmark: str | None = None
    """A public benchmark's name, with `folder`."""
    folder: Path | None = None
    samples: Path | None = None
    """A CoTA file or a file of samples, in place of a benchmark."""
    limit: int | None = None
    """Ask the first so many questions only."""
    plan: Plan = field(default_factory=Plan)

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"arms: expected one or more with different names, got {names}")
        if (self.samples is None) == (self.benchmark is None):
            raise ValueError(
                "expected either a benchmark or a file of samples, got both or neither"
            )
        if (self.folder is None) != (self.benchmark is None):
            raise ValueError(f"folder: expected one with a benchmark, got {self.folder}")
        times, greedy = len(self.plan.seeds), [arm.name for arm in self.arms if arm.is_greedy]
        if times > 1 and greedy:
            raise ValueError(
                f"seeds: expected one for the greedy arm {greedy[0]}, got {times}; "
                "a temperature above 0 makes them differ"
            )
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit: expected >= 1, got {self.limit}")

    def identity(self) -> dict[str, Any]:
        """What a folder's answers depend on; the rest may differ when a run goes on."""
        return {
            "benchmark": self.benchmark,
            "source": (self.folder or self.samples or Path()).name,
            "limit": self.limit,
            "arms": {arm.name: [arm.agent.to_json(), arm.tools] for arm in self.arms},
        }


def main(config: EvalConfig) -> dict[str, Any]:
    """What it also writes as results.json."""
    cases = load_cases(config)
    claim_folder(config)
    runs = [
        ArmRun(Answerer(arm, agent), cases, config.plan, folder=config.out / arm.name)
        for arm, agent in zip(config.arms, open_agents(config.arms), strict=True)
    ]
    with progress_bar() as bar:
        for run in runs:
            run.go_on(bar)
    found = results([run.outcome() for run in runs], cases, config.plan.seeds)
    write_whole(config.out / RESULTS, json.dumps(found, indent=1, allow_nan=False) + "\n")
    write_whole(config.out / REPORT, report_html(found, case_traces(config, cases, runs)))
    return found


def load_cases(config: EvalConfig) -> CaseSet:
    if config.samples is not None:
        return file_cases(config.samples, limit=config.limit)
    assert config.benchmark is not None
    assert config.folder is not None
    cache = config.out / "media"
    return benchmark_cases(config.benchmark, config.folder, cache=cache, limit=config.limit)


def claim_folder(config: EvalConfig) -> None:
    """ValueError where the folder holds the answers of another run."""
    settings = config.out / SETTINGS
    identity = json.loads(json.dumps(config.identity()))
    if settings.is_file():
        if json.loads(settings.read_text()) != identity:
            raise ValueError(
                f"out: expected a new folder, or the same benchmark and arms, got {config.out}"
            )
        return
    config.out.mkdir(parents=True, exist_ok=True)
    write_whole(settings, json.dumps(identity, indent=1) + "\n")


def case_traces(config: EvalConfig, cases: CaseSet, runs: Sequence[ArmRun]) -> Iterator[CaseTraces]:
    """Questions are the samples' own, as the journals have them."""
    questions = {e.case: e.trajectory.sample.question for e in runs[0].outcome().entries}
    told = [run.told() for run in runs]
    for number, case in enumerate(cases.cases[: config.plan.traces]):
        kept = tuple(each for arm in told if (each := arm[number]) is not None)
        yield CaseTraces(case.id, questions[case.id], case.truth, kept)


def progress_bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn())
