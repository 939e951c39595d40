"""The host kernels' part of bench/kernels.py: cases of kernel_cases.py, timed, checked, their goal.

Every arm's result is compared before any is timed: an op with a wrong result prints no speed.
The libraries they are compared with are imported when a host kernel is asked for, so that a
machine for the tensor ops alone needs none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bench.harness import Goal, Options, Report, Timing, interleave, progress_bar
from pixelis_fast.kernels import _cpu

if TYPE_CHECKING:
    from bench.kernel_cases import Case

OPS = ("patchify", "resize", "region")
ARMS = ("ours", "torchvision", "pillow", "skimage")
TARGET_RATIO = 2.0
RUNS, QUICK_RUNS = 51, 15
SAMPLE_MS = 5.0
"""Short calls are repeated until a sample lasts this long."""


def run_host_ops(ops: Sequence[str], options: Options, report: Report) -> None:
    from bench.kernel_cases import cases

    report.notes.append(f"host kernels' instruction set: {_cpu.simd_level()}")
    found = list(cases(threads=options.threads, quick=options.quick, ops=ops))
    wrong = {case.op for case in found if not is_right(case, options, report)}
    report.notes += [f"{op}: no times, its checks failed" for op in sorted(wrong)]
    with progress_bar() as progress:
        for case in found:
            if case.op not in wrong:
                task = progress.add_task(case.name, total=None)
                measure(case, options, report, tick=lambda _, task=task: progress.advance(task))
                progress.update(task, total=progress.tasks[task].completed)
    report.goals += goals(report)


def is_right(case: Case, options: Options, report: Report) -> bool:
    """Runs every arm once and compares; the lower instruction sets stand in for ours in turn."""
    results = {name: call() for name, call in case.arms.items() if name in options.arms}
    checks = case.compare(case.name, results)
    if options.ablate:
        for level, call in case.levels.items():
            checks += case.compare(f"{case.name} {level}", results | {"ours": call()})
    report.checks += checks
    return all(check.passed for check in checks)


def measure(case: Case, options: Options, report: Report, *, tick: Callable[[str], None]) -> None:
    arms = {name: call for name, call in case.arms.items() if name in options.arms}
    if options.ablate:
        arms |= case.levels
    runs = options.runs or (QUICK_RUNS if options.quick else RUNS)
    samples = interleave(arms, warmup=2, runs=runs, min_sample_ms=SAMPLE_MS, tick=tick)
    assert isinstance(report.baseline, dict)
    report.baseline[case.name] = case.baseline
    report.timings += [Timing(case.name, arm, tuple(s.ms)) for arm, s in samples.items()]


def goals(report: Report) -> list[Goal]:
    """One thread each: with more the two libraries split the work differently."""
    if report.options.threads != 1 or "torchvision" not in report.options.arms:
        return []
    ratios = report.ratios()
    patchify = [ratio for name, ratio in ratios.items() if name.startswith("patchify")]
    if not patchify:
        return []
    return [Goal.at_least("patchify over torchvision, smallest ratio", TARGET_RATIO, min(patchify))]
