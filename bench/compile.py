"""Compiles every Triton kernel in every committed configuration for A100, H100 and B200, no GPU.

A case fails when it does not compile, spills registers, needs more shared memory than the device
has, is told by ptxas that it lost performance, or lacks a tensor-core or TMA instruction that it
claims. Times are of the compilation, alone or beside others with --jobs: no speed of a kernel.

    python bench/compile.py --quick
    python bench/compile.py --targets 90 --only "weight product"
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

if __name__ == "__main__":
    import rooted  # noqa: F401

import triton

from bench.compile_cases import Outcome, case_modules, jobs, outcomes
from bench.compile_report import goal, outcome_table, summary_table, write_compile_results
from bench.harness import (
    STDERR,
    Check,
    Options,
    Report,
    Timing,
    parse_options,
    progress_bar,
)
from pixelis_fast.kernels.offline import CAPABILITIES

TARGETS = tuple(f"sm_{capability}" for capability in CAPABILITIES)


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(__doc__, arms=TARGETS, add=add_options, argv=argv)
    refuse_useless(options)
    extra = options.extra
    work = jobs(
        extra.modules.split(",") if extra.modules else case_modules(),
        capabilities=extra.targets or [int(target.removeprefix("sm_")) for target in options.arms],
        only=extra.only,
        quick=options.quick,
    )
    if not work:
        raise SystemExit("--only, --targets: expected a case that is left, got none")
    with progress_bar() as progress:
        task = progress.add_task("compile", total=len(work))
        done = outcomes(work, processes=extra.jobs, tick=lambda _: progress.advance(task))
    return finish(report_of(done, options), done, options)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--targets", type=capabilities, help="80,90,100 for sm_80, sm_90, sm_100")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="cases named 'op: …' with TEXT in it"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes that compile")
    parser.add_argument("--modules", metavar="NAMES", help="cases() of these, not of our kernels")


def capabilities(text: str) -> list[int]:
    chosen = [int(word) for word in text.split(",")]
    unknown = sorted(set(chosen) - set(CAPABILITIES))
    if unknown:
        raise argparse.ArgumentTypeError(f"expected some of {CAPABILITIES}, got {unknown}")
    return chosen


def refuse_useless(options: Options) -> None:
    """An option of the other benchmarks that would do nothing here is an error."""
    if options.ablate or options.runs or options.threads != 1 or options.device != "cpu":
        raise SystemExit("--ablate, --runs, --threads, --device: expected none of them here")
    if options.extra.jobs < 1:
        raise SystemExit(f"--jobs: expected at least 1, got {options.extra.jobs}")
    if os.environ.get("TRITON_INTERPRET", "0") != "0":
        raise SystemExit("TRITON_INTERPRET: expected unset, interpreted kernels do not compile")


def report_of(done: Sequence[Outcome], options: Options) -> Report:
    """One check per case and target; what compiled is a timing with its figures beside it."""
    report = Report("compile", options, ours="", baseline={})
    for outcome in done:
        job, compiled = outcome.job, outcome.compiled
        if compiled:
            figures = {name: value for name, value in vars(compiled).items() if name != "seconds"}
            figures |= {"kernel": outcome.kernel, "module": job.module}
            samples = (compiled.seconds * 1e3,)
            report.timings.append(Timing(job.title, job.target, samples, figures))
        found = "; ".join(outcome.problems) or "none"
        report.checks.append(Check.same(f"{job.title} {job.target}", "violations", found, "none"))
    report.notes.append(f"triton {triton.__version__}, {options.extra.jobs} compiling at a time")
    report.goals.append(goal(done))
    report.extra["tables"] = [summary_table(done)]
    return report


def finish(report: Report, done: Sequence[Outcome], options: Options) -> int:
    """As every benchmark ends, with tables of machine code in place of the table of times."""
    STDERR.print(outcome_table(done))
    for check in report.failed:
        STDERR.print(f"UNSOUND {check.case}: {check.value}", markup=False, style="red")
    for goal_ in report.goals:
        word = "met" if goal_.met else "MISSED"
        STDERR.print(f"goal {word}: {goal_.goal} (target {goal_.target}, value {goal_.value})")
    document = report.document()
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if options.record:
        write_compile_results(document)
    print(json.dumps(document))
    return 0 if report.equal else 1


if __name__ == "__main__":
    sys.exit(main())
