"""Host kernels beside what people use today, each on real input, arms interleaved.

patchify against transformers' Qwen processors (torchvision and Pillow variants), resize against
Pillow, region_properties against scikit-image. Results are compared before a ratio is printed.
--ablate adds our own code at every lower instruction set.

    python bench/kernels.py --quick
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    # A script's own folder comes first on the path, where this file would be the module
    # "kernels" that transformers looks for.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench.harness import (
    Goal,
    Options,
    Report,
    Timing,
    finish,
    interleave,
    parse_options,
    progress_bar,
)
from bench.kernel_cases import ARMS, Case, cases
from pixelis_fast.kernels import _cpu

TARGET_RATIO = 2.0
RUNS, QUICK_RUNS = 51, 15
SAMPLE_MS = 5.0
"""Short calls are repeated until a sample lasts this long."""


def main() -> int:
    options = parse_options(__doc__, arms=ARMS)
    if options.device != "cpu":
        raise SystemExit(f"--device: expected cpu, these are host kernels; got {options.device}")
    if "ours" not in options.arms:
        raise SystemExit("--arms: expected ours among them, every check is against it")
    report = Report("kernels", options, ours="ours", baseline={})
    report.notes.append(f"instruction set: {_cpu.simd_level()}")
    with progress_bar() as progress:
        for case in cases(threads=options.threads, quick=options.quick):
            task = progress.add_task(case.name, total=None)
            measure(case, options, report, tick=lambda _, task=task: progress.advance(task))
            progress.update(task, total=progress.tasks[task].completed)
    report.goals += goals(report)
    return finish(report, options)


def measure(case: Case, options: Options, report: Report, *, tick: Callable[[str], None]) -> None:
    arms = {name: call for name, call in case.arms.items() if name in options.arms}
    if options.ablate:
        arms |= case.levels
    runs = options.runs or (QUICK_RUNS if options.quick else RUNS)
    samples = interleave(arms, warmup=2, runs=runs, min_sample_ms=SAMPLE_MS, tick=tick)
    report.baseline[case.name] = case.baseline
    report.timings += [Timing(case.name, arm, tuple(s.ms)) for arm, s in samples.items()]
    report.checks += case.compare(case.name, {arm: s.results[-1] for arm, s in samples.items()})


def goals(report: Report) -> list[Goal]:
    """One thread each: with more the two libraries split the work differently."""
    if report.options.threads != 1 or "torchvision" not in report.options.arms:
        return []
    ratios = report.ratios()
    patchify = [ratio for name, ratio in ratios.items() if name.startswith("patchify")]
    worst = min(patchify, default=None)
    return [Goal.at_least("patchify over torchvision, smallest ratio", TARGET_RATIO, worst)]


if __name__ == "__main__":
    sys.exit(main())
