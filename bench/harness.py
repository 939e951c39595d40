"""What every benchmark shares: options, interleaved timing, checks, goals, tables, the JSON line.

A benchmark is a script `bench/NAME.py`: `parse_options`, time its arms with `interleave`, fill a
`Report`, and end with `return finish(report, options)`. Stdout carries one line, the JSON document;
progress and tables go to stderr. The harness knows no model, tool or kernel.

    options = parse_options(__doc__, arms=("reference", "ours"))
    samples = interleave({"reference": f, "ours": g}, warmup=2, runs=20, device=options.device)
    report.timings += [Timing("op 64x64", arm, tuple(s.ms)) for arm, s in samples.items()]
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench.card import commit, machine_card
from bench.flags import listed
from bench.record import write_results

STDERR = Console(stderr=True)
PERCENTILES = (20, 50, 80, 90, 99)


@dataclass(frozen=True)
class Options:
    """The command line; the same words mean the same in every benchmark."""

    quick: bool
    record: bool
    json: Path | None
    arms: tuple[str, ...]
    ablate: bool
    device: str
    threads: int
    runs: int | None
    command: str
    """As a reader would type it, without machine paths."""
    extra: argparse.Namespace


def parse_options(
    description: str | None,
    *,
    arms: Sequence[str],
    add: Callable[[argparse.ArgumentParser], None] | None = None,
    argv: Sequence[str] | None = None,
) -> Options:
    """Reads argv; `add` puts in a benchmark's own flags, found in `.extra`."""
    argv = sys.argv[1:] if argv is None else list(argv)
    script = Path(sys.argv[0]).name
    parser = argparse.ArgumentParser(prog=f"python bench/{script}", description=description)
    parser.add_argument("--quick", action="store_true", help="fewer cases and runs")
    parser.add_argument("--record", action="store_true", help="append to bench/RESULTS.md")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the document here")
    parser.add_argument("--arms", default=",".join(arms), help=f"comma list of {', '.join(arms)}")
    parser.add_argument("--ablate", action="store_true", help="each mechanism off, one at a time")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=1, help="compute threads of every arm")
    parser.add_argument("--runs", type=int, help="timed runs per arm and case")
    if add:
        add(parser)
    parsed = parser.parse_args(argv)
    chosen = listed(parsed.arms)
    unknown = sorted(set(chosen) - set(arms))
    if unknown or not chosen:
        parser.error(f"--arms: expected some of {', '.join(arms)}, got {parsed.arms!r}")
    if parsed.threads < 1 or (parsed.runs is not None and parsed.runs < 1):
        parser.error("--threads and --runs: expected at least 1")
    if parsed.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device: expected an available device, got {parsed.device!r} without CUDA")
    torch.set_num_threads(parsed.threads)
    return Options(
        quick=parsed.quick,
        record=parsed.record,
        json=parsed.json,
        arms=chosen,
        ablate=parsed.ablate,
        device=parsed.device,
        threads=parsed.threads,
        runs=parsed.runs,
        command=_typed_command(script, argv),
        extra=parsed,
    )


def _typed_command(script: str, argv: Sequence[str]) -> str:
    """Leaves out `--json PATH`: where a copy went says nothing about the measurement."""
    words, skip = [], False
    for word in argv:
        if skip or word == "--json":
            skip = word == "--json" and not skip
        elif not word.startswith("--json="):
            words.append(word if "/" not in word else Path(word).name)
    return shlex.join(["python", f"bench/{script}", *words])


@dataclass(frozen=True)
class Timing:
    """Samples of one arm on one case.

    Example:
        Timing("resize 1080p", "ours", (1.2, 1.3, 1.2), {"bytes_per_second": 4e9})
    """

    name: str
    arm: str
    samples_ms: tuple[float, ...]
    extra: dict[str, Any] = field(default_factory=dict)
    """More keys of the JSON case: spans, bytes, rooflines, …"""

    def percentile_ms(self, percent: float) -> float:
        return float(np.percentile(self.samples_ms, percent))

    def as_case(self) -> dict[str, Any]:
        points = {f"p{p}_ms": round(self.percentile_ms(p), 4) for p in PERCENTILES}
        return {
            "name": self.name,
            "arm": self.arm,
            **points,
            "n": len(self.samples_ms),
        } | self.extra


@dataclass(frozen=True)
class Check:
    """One statement about equal work, with what was measured.

    Example:
        Check("chain page", "log-prob difference", value=3e-5, limit="<= 1e-2", passed=True)
    """

    case: str
    check: str
    value: float | int | str | None
    limit: str
    passed: bool

    @classmethod
    def at_most(cls, case: str, check: str, value: float, limit: float) -> Check:
        return cls(case, check, value, f"<= {limit:g}", bool(value <= limit))

    @classmethod
    def at_least(cls, case: str, check: str, value: float, limit: float) -> Check:
        return cls(case, check, value, f">= {limit:g}", bool(value >= limit))

    @classmethod
    def same(cls, case: str, check: str, value: object, expected: object) -> Check:
        return cls(case, check, str(value), f"== {expected}", value == expected)


@dataclass(frozen=True)
class Goal:
    """A target and whether this run met it."""

    goal: str
    target: float
    value: float | None
    met: bool

    @classmethod
    def at_least(cls, goal: str, target: float, value: float | None) -> Goal:
        return cls(goal, target, value, value is not None and value >= target)

    @classmethod
    def at_most(cls, goal: str, target: float, value: float | None) -> Goal:
        return cls(goal, target, value, value is not None and value <= target)


@dataclass
class Samples:
    """What `interleave` saw of one arm: milliseconds per call, and what the calls returned."""

    ms: list[float] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    """Processor time of the whole process: what a busy machine does not stretch."""


def timed(name: str, arm: str, samples: Samples, **extra: Any) -> Timing:
    """A Timing with the processor time beside the wall time."""
    cpu = {
        "cpu_p50_ms": round(float(np.median(samples.cpu_ms)), 4),
        "cpu_mean_ms": round(float(np.mean(samples.cpu_ms)), 4),
    }
    return Timing(name, arm, tuple(samples.ms), cpu | extra)


def synchronize(device: str) -> None:
    """Waits for the device; on a CPU there is nothing to wait for."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def interleave(
    arms: Mapping[str, Callable[[], Any]],
    *,
    warmup: int,
    runs: int,
    device: str = "cpu",
    min_sample_ms: float = 0.0,
    tick: Callable[[str], None] = lambda _: None,
) -> dict[str, Samples]:
    """Times the arms in turn, the order rotated by one each run, so drift hits all alike.

    A sample is a mean over enough calls to last `min_sample_ms` (short ops need it). Results of
    the last call of each timed sample are kept in order. `tick(arm)` runs after every sample.
    """
    samples = {name: Samples() for name in arms}
    calls = dict.fromkeys(arms, 1)
    for name, call in arms.items():
        for _ in range(warmup):
            elapsed_ms, _, _ = _sample(call, calls=1, device=device)
            calls[name] = max(1, int(np.ceil(min_sample_ms / max(elapsed_ms, 1e-4))))
            tick(name)
    names = list(arms)
    for run in range(runs):
        turn = run % len(names)
        for name in names[turn:] + names[:turn]:
            elapsed_ms, cpu_ms, result = _sample(arms[name], calls=calls[name], device=device)
            samples[name].ms.append(elapsed_ms)
            samples[name].cpu_ms.append(cpu_ms)
            samples[name].results.append(result)
            tick(name)
    return samples


def _sample(call: Callable[[], Any], *, calls: int, device: str) -> tuple[float, float, Any]:
    """Wall and processor milliseconds per call, and the last result."""
    synchronize(device)
    start, cpu_start = time.perf_counter(), time.process_time()
    for _ in range(calls):
        result = call()
    synchronize(device)
    elapsed_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
    return elapsed_s * 1e3 / calls, cpu_s * 1e3 / calls, result


def progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=STDERR,
    )


@dataclass
class Report:
    """One benchmark's findings; `document` is the form every benchmark prints."""

    bench: str
    options: Options
    ours: str
    baseline: str | dict[str, str]
    """The arm ratios are taken against: one for all cases, or by case name."""
    timings: list[Timing] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a reader must know: missing packages, degraded engines, losing cases."""
    tables: list[Table] = field(default_factory=list)
    """Further tables for stderr."""
    extra: dict[str, Any] = field(default_factory=dict)
    """More keys of the JSON document."""

    def baseline_of(self, case: str) -> str | None:
        return self.baseline if isinstance(self.baseline, str) else self.baseline.get(case)

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if not check.passed]

    @property
    def equal(self) -> bool:
        """False with no check at all: unproven is not equal."""
        return bool(self.checks) and not self.failed

    def ratios(self) -> dict[str, float]:
        """Baseline p50 over ours by case; a case that failed a check has none."""
        unequal = {check.case for check in self.failed}
        p50 = {(t.name, t.arm): t.percentile_ms(50) for t in self.timings}
        found = {}
        for name in dict.fromkeys(t.name for t in self.timings):
            pair = (p50.get((name, self.baseline_of(name) or "")), p50.get((name, self.ours)))
            if name not in unequal and None not in pair:
                found[name] = round(pair[0] / pair[1], 3)  # type: ignore[operator]
        return found

    def document(self) -> dict[str, Any]:
        return {
            "bench": self.bench,
            "commit": commit(),
            "command": self.options.command,
            "machine": machine_card(self.options.device, self.options.threads),
            "baseline": self.baseline,
            "ours": self.ours,
            "cases": [timing.as_case() for timing in self.timings],
            "ratios": self.ratios(),
            "equal": self.equal,
            "failed": [f"{c.case}: {c.check} = {c.value}, expected {c.limit}" for c in self.failed],
            "checks": [vars(check) for check in self.checks],
            "goals": [vars(goal) for goal in self.goals],
            "notes": self.notes,
        } | self.extra


def shown_ms(milliseconds: float) -> str:
    """Four digits or all whole milliseconds: 0.0123, 12.35, 47813."""
    whole_digits = len(str(int(milliseconds))) if milliseconds >= 1 else 0
    return f"{milliseconds:.{max(4 - whole_digits, 0)}f}"


def timing_table(report: Report) -> Table:
    table = Table(title=f"{report.bench}: milliseconds per case", title_justify="left")
    table.add_column("case")
    table.add_column("arm")
    for head in (*(f"p{p}" for p in PERCENTILES), "n", "ratio"):
        table.add_column(head, justify="right")
    ratios = report.ratios()
    for timing in report.timings:
        points = [shown_ms(timing.percentile_ms(p)) for p in PERCENTILES]
        ratio = ratios.get(timing.name)
        shown = f"{ratio:.2f}x" if ratio and timing.arm == report.ours else ""
        table.add_row(timing.name, timing.arm, *points, str(len(timing.samples_ms)), shown)
    return table


def rich_table(table: dict[str, Any]) -> Table:
    """A table of the document, {"title", "columns", "rows"}, for the terminal."""
    shown = Table(title=table["title"], title_justify="left")
    for number, column in enumerate(table["columns"]):
        shown.add_column(column, justify="right" if number else "left")
    for row in table["rows"]:
        shown.add_row(*row)
    return shown


def process_wall_s() -> float | None:
    """Seconds since this process began, its imports included; None where no /proc tells."""
    stat = Path("/proc/self/stat")
    if not stat.exists():
        return None
    # The name, in brackets, may hold spaces; after it the start is the twentieth field.
    ticks = int(stat.read_text().rpartition(")")[2].split()[19])
    return round(time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"), 1)


def print_report(report: Report) -> None:
    for table in (timing_table(report), *report.tables):
        STDERR.print(table)
    for note in report.notes:
        STDERR.print(f"note: {note}", markup=False)
    for check in report.failed:
        what = f"{check.case}: {check.check} = {check.value}, expected {check.limit}"
        STDERR.print(f"NOT EQUAL {what}", markup=False, style="red")
    for goal in report.goals:
        word = "met" if goal.met else "MISSED"
        STDERR.print(f"goal {word}: {goal.goal} (target {goal.target}, value {goal.value})")


def finish(report: Report, options: Options) -> int:
    """Prints, writes what was asked for, and returns the exit status: 0 when the arms were equal.

    A missed goal is a finding, not a failure of the measurement.
    """
    print_report(report)
    document = report.document() | {"wall_s": process_wall_s()}
    STDERR.print(f"the whole command took {document['wall_s']} s")
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if options.record:
        write_results(document)
    print(json.dumps(document))
    return 0 if report.equal else 1
