"""Where the time of a pixel-tool chain goes: what people assemble today beside pixelis_fast.

Chains of three to six tool steps on real media, the tokens of every turn fixed by a script, so that
all arms compute the same tokens with any weights. Arms run interleaved; every run sees new media.

    python bench/latency.py --quick
    python bench/latency.py --quick --ablate --ablations "session KV,prefetch"
    python bench/latency.py --policy qwen3-vl-8b --random-weights --device cuda --ablate
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    import rooted  # noqa: F401

    # sam2 draws a progress bar per call; ours is enough. Nothing here may fetch weights.
    os.environ.update(TQDM_DISABLE="1", HF_HUB_OFFLINE="1")

    from bench.naive_packages import require_baseline

    # Before the imports below, the first of which would end in a traceback.
    require_baseline()

import cv2
import numpy as np
import transformers
from rich.progress import Progress

from bench.ablations import ABLATIONS, OTHERWISE, chosen_ablations
from bench.cases import Case, chosen_cases
from bench.flags import listed
from bench.harness import (
    Check,
    Goal,
    Options,
    Report,
    Samples,
    Timing,
    finish,
    interleave,
    parse_options,
    progress_bar,
    rich_table,
)
from bench.naive import NaiveArm
from bench.naive_sam2 import SIDE, NaiveSam2, shared_weights
from bench.naive_tools import NaiveTools, open_reader
from bench.ours import Agents, OursArm, reference
from bench.outputs import Arm, ChainRun, compare, compare_ablated
from bench.pinned import PinnedChain
from bench.record import results_folder
from bench.scenes import fresh, scene
from bench.waterfall import draw
from pixelis_fast.agent import AgentConfig, build_agent
from pixelis_fast.tools import ToolConfig

RUNS = 5
"""Also the fewest that may be recorded."""
STAGE_PERCENTILES = (50, 90, 99)
MIN_CHAIN_RATIO = 4.0
MIN_SHOWN_MS = 0.05
SHOWN = ("p50", "p90")
"""Of the stages' percentiles, in the table; the document has all."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Those that bench/rollout.py has too."""
    parser.add_argument("--policy", help="a preset, or a checkpoint folder; bench-36m on a CPU")
    parser.add_argument(
        "--random-weights", action="store_true", help="give a preset random weights"
    )
    parser.add_argument("--dtype", help="float32 (default on a CPU) or bfloat16 (on a GPU)")
    parser.add_argument("--cases", default="", help="comma list instead of the default choice")


def add_own_flags(parser: argparse.ArgumentParser) -> None:
    add_flags(parser)
    parser.add_argument(
        "--ablations", default="", help="comma list of what --ablate switches off, instead of all"
    )


def agent_config(options: Options) -> AgentConfig:
    """On a GPU the default is the published backbone's size with random weights."""
    on_gpu = options.device.startswith("cuda")
    given = options.extra
    return AgentConfig(
        policy=given.policy or ("qwen3-vl-8b" if on_gpu else "bench-36m"),
        random_weights=given.random_weights or (on_gpu and given.policy is None),
        device=options.device,
        dtype=given.dtype or ("bfloat16" if on_gpu else "float32"),
        threads=options.threads,
    )


@dataclass(frozen=True)
class Bench:
    """All that is loaded before the clock starts."""

    config: AgentConfig
    arms: dict[str, Arm]
    pinned: dict[str, PinnedChain]
    notes: tuple[str, ...]


def set_up(
    cases: Sequence[Case],
    options: Options,
    *,
    ablations: Sequence[str],
    folder: Path,
    bar: Progress,
) -> Bench:
    config = agent_config(options)
    weights = shared_weights(folder) if uses_sam2(cases) else None
    task = bar.add_task("set-up: our agents", total=3 + len(cases))
    agents = open_agents(config, sam2_weights=weights)
    bar.advance(task)
    pinned: dict[str, PinnedChain] = {}
    for case in cases:
        bar.update(task, description=f"set-up: tokens of {case.name}")
        pinned[case.name] = reference(agents, case, [scene(name) for name in case.scenes])
        bar.advance(task)
    arms: dict[str, Arm] = {}
    if "naive" in options.arms:
        bar.update(task, description="set-up: baseline")
        naive = naive_arm(agents, pinned, config=config, weights=weights)
        naive.warm_up(cases[0], [scene(name) for name in cases[0].scenes])
        arms["naive"] = naive
    bar.advance(task)
    if "ours" in options.arms:
        arms["ours"] = OursArm(agents, pinned)
    for name in ablations:
        bar.update(task, description=f"set-up: {name}")
        ablated = {segmenter: ABLATIONS[name](agent) for segmenter, agent in agents.items()}
        arms[name] = OursArm(ablated, pinned, name=name)
    bar.advance(task)
    degraded = {note for agent in agents.values() for note in agent.degraded}
    return Bench(config, arms, pinned, tuple(sorted(degraded)))


def uses_sam2(cases: Sequence[Case]) -> bool:
    return any(case.segmenter == "sam2" for case in cases)


def open_agents(config: AgentConfig, *, sam2_weights: Path | None) -> Agents:
    """One agent per segmenter; both have the same policy."""
    first = build_agent(config)
    if sam2_weights is None:
        return {"classical": first}
    tools: ToolConfig = replace(config.tools, sam2=str(sam2_weights), sam2_side=SIDE)
    return {"classical": first, "sam2": first.variant(replace(config, tools=tools))}


def naive_arm(
    agents: Agents,
    pinned: Mapping[str, PinnedChain],
    *,
    config: AgentConfig,
    weights: Path | None,
) -> NaiveArm:
    reader = open_reader(config.device)
    sam2 = NaiveSam2(weights, device=config.device) if weights else None
    agent = agents["classical"]
    return NaiveArm(
        agent.policy,
        agent.tokenizer,
        limits=agent.opened.limits,
        tools=NaiveTools(reader, sam2),
        pinned=pinned,
        device=config.device,
    )


def run_case(
    case: Case, bench: Bench, *, runs: int, device: str, bar: Progress
) -> dict[str, Samples]:
    """Every arm's runs of one case, interleaved; run i of all arms sees the same media."""
    task = bar.add_task(case.name, total=runs * len(bench.arms))
    media = [[fresh(scene(name), 1 + run) for name in case.scenes] for run in range(runs)]

    def call(arm: Arm) -> Any:
        number = count()
        return lambda: arm.run(case, media[next(number)])

    samples = interleave(
        {name: call(arm) for name, arm in bench.arms.items()},
        warmup=0,
        runs=runs,
        device=device,
        tick=lambda arm: bar.advance(task),
    )
    for sample in samples.values():
        # The arm's own clock leaves out what only the benchmark does, such as writing a file.
        sample.ms = [run.total_ms for run in sample.results]
    return samples


def timing(case: Case, arm: str, sample: Samples) -> Timing:
    extra = {
        "cpu_p50_ms": round(statistics.median(run.cpu_ms for run in sample.results), 3),
        "stage_ms": stage_percentiles(sample.results),
    }
    return Timing(case.name, arm, tuple(sample.ms), extra)


def stage_percentiles(runs: Sequence[ChainRun]) -> dict[str, dict[str, float]]:
    """Milliseconds by stage, then by percentile; a run without a stage took 0 ms for it."""
    stages = sorted({stage for run in runs for stage in run.stage_ms})
    return {stage: percentiles([run.stage_ms.get(stage, 0.0) for run in runs]) for stage in stages}


def percentiles(samples_ms: Sequence[float]) -> dict[str, float]:
    return {f"p{p}": round(float(np.percentile(samples_ms, p)), 3) for p in STAGE_PERCENTILES}


def checks_of(case: Case, samples: Mapping[str, Samples], bench: Bench) -> list[Check]:
    if "ours" not in samples:
        return []
    dtype, ours = bench.config.dtype, samples["ours"].results
    checks = (
        compare(case, samples["naive"].results, ours, dtype=dtype) if "naive" in samples else []
    )
    for arm in (name for name in ABLATIONS if name in samples):
        checks += compare_ablated(
            case,
            arm,
            ours,
            samples[arm].results,
            dtype=dtype,
            otherwise=OTHERWISE.get(arm),
        )
    return checks


def stage_table(report: Report) -> dict[str, Any]:
    """Milliseconds per stage and arm, each percentile added up over the cases."""
    timings = [timing for timing in report.timings if timing.arm not in ABLATIONS]
    columns = [f"{arm} {p}" for arm in dict.fromkeys(t.arm for t in timings) for p in SHOWN]
    totals: dict[str, dict[str, float]] = {}
    for each in timings:
        for stage, points in each.extra["stage_ms"].items():
            row = totals.setdefault(stage, dict.fromkeys(columns, 0.0))
            for percentile in SHOWN:
                row[f"{each.arm} {percentile}"] += points[percentile]
    ordered = sorted(totals.items(), key=lambda item: -max(item[1].values()))
    rows = [
        [stage, *(f"{row[column]:.1f}" for column in columns)]
        for stage, row in ordered
        if max(row.values()) >= MIN_SHOWN_MS
    ]
    title = f"Stages of {MIN_SHOWN_MS} ms and more, in ms, each percentile added up over the cases"
    return {"title": title, "columns": ["stage", *columns], "rows": rows}


def cpu_table(report: Report) -> dict[str, Any]:
    """Processor time per chain: says how far other work on the machine stretched the wall time."""
    rows = [[t.name, t.arm, f"{t.extra['cpu_p50_ms']:.0f}", f"{t.percentile_ms(50):.0f}"]
            for t in report.timings if t.arm not in ABLATIONS]  # fmt: skip
    columns = ["case", "arm", "processor p50 ms", "wall p50 ms"]
    return {"title": "Processor time and wall time", "columns": columns, "rows": rows}


def ablation_table(report: Report) -> dict[str, Any]:
    """What each mechanism is worth: p50 without it over p50 with all, summed and per chain.

    Processor time says the same of a CPU that other work shares.
    """
    arms = [arm for arm in ("ours", *ABLATIONS) if any(t.arm == arm for t in report.timings)]
    chains = list(dict.fromkeys(timing.name for timing in report.timings))
    p50 = {(t.arm, t.name): t.percentile_ms(50) for t in report.timings}
    totals = {arm: sum(p50[arm, chain] for chain in chains) for arm in arms}
    cpu = {arm: sum(t.extra["cpu_p50_ms"] for t in report.timings if t.arm == arm) for arm in arms}
    rows = [
        [
            arm,
            f"{totals[arm]:.0f}",
            f"{totals[arm] / totals['ours']:.2f}",
            f"{cpu[arm] / cpu['ours']:.2f}",
            *(f"{p50[arm, chain] / p50['ours', chain]:.2f}" for chain in chains),
        ]
        for arm in arms
    ]
    title = "Ablation: our arm with one mechanism off; times ours in all chains and in each"
    columns = ["arm", "sum of p50 ms", "all", "all, processor", *chains]
    return {"title": title, "columns": columns, "rows": rows}


def check_table(report: Report) -> dict[str, Any]:
    """What was measured; of plain equalities only those that failed."""
    told = [c for c in report.checks if not (c.passed and c.limit.startswith(("==", "same")))]
    rows = [[c.case, c.check, _short(c.value), c.limit, "yes" if c.passed else "NO"] for c in told]
    columns = ["case", "check", "measured", "limit", "held"]
    return {"title": "Equal work, as measured", "columns": columns, "rows": rows}


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def chain_goal(report: Report) -> list[Goal]:
    """The geometric mean over the chains, so that no long chain outweighs the others."""
    if not {"naive", "ours"} <= set(report.options.arms):
        return []
    ratios = list(report.ratios().values())
    mean = round(statistics.geometric_mean(ratios), 3) if ratios else None
    return [Goal.at_least("geometric mean of chain p50 ratios", MIN_CHAIN_RATIO, mean)]


def median_stages(timing: Timing) -> dict[str, float]:
    return {stage: points["p50"] for stage, points in timing.extra["stage_ms"].items()}


def draw_waterfall(report: Report, document: Mapping[str, Any]) -> None:
    rows = [
        (f"{t.name} · {t.arm}", median_stages(t), t.percentile_ms(50))
        for t in report.timings
        if t.arm in ("naive", "ours")
    ]
    path = results_folder(dict(document)) / "waterfall.png"
    draw(rows, path, title=f"{report.options.command}   {document['machine']['slug']}")


def plan(options: Options) -> tuple[list[Case], list[str], int]:
    """Cases, ablations and timed runs; SystemExit where the options ask for what cannot be."""
    runs = options.runs or RUNS
    if options.record and runs < RUNS:
        raise SystemExit(f"--runs: expected at least {RUNS} with --record, got {runs}")
    if options.ablate and "ours" not in options.arms:
        raise SystemExit("--ablate: expected ours among --arms, every ablation is against it")
    asked = listed(options.extra.ablations)
    if asked and not options.ablate:
        raise SystemExit("--ablations: expected --ablate with it, which it narrows")
    try:
        names = listed(options.extra.cases)
        cases = chosen_cases(quick=options.quick, ablate=options.ablate, names=names)
        config, sam2 = agent_config(options), uses_sam2(cases)
        return (
            cases,
            chosen_ablations(config, asked, uses_sam2=sam2) if options.ablate else [],
            runs,
        )
    except ValueError as error:
        raise SystemExit(str(error)) from None


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(__doc__, arms=("naive", "ours"), add=add_own_flags, argv=argv)
    cases, ablations, runs = plan(options)
    transformers.utils.logging.set_verbosity_error()
    # easyocr's quantised recogniser and data loader warn at every call.
    warnings.filterwarnings("ignore", module=r"torch\.|easyocr\.")
    cv2.setNumThreads(options.threads)
    report = Report("latency", options, ours="ours", baseline="naive")
    with progress_bar() as bar, tempfile.TemporaryDirectory(prefix="pixelis-bench-") as folder:
        bench = set_up(cases, options, ablations=ablations, folder=Path(folder), bar=bar)
        report.notes += bench.notes
        for case in cases:
            samples = run_case(case, bench, runs=runs, device=options.device, bar=bar)
            report.timings += [timing(case, arm, sample) for arm, sample in samples.items()]
            report.checks += checks_of(case, samples, bench)
    report.goals += chain_goal(report)
    tables = [
        stage_table(report),
        cpu_table(report),
        *([ablation_table(report)] if options.ablate else []),
    ]
    report.tables += [rich_table(table) for table in (*tables, check_table(report))]
    report.extra |= {"tables": tables, "policy": bench.config.policy, "dtype": bench.config.dtype}
    report.extra["variant"] = "ablate" if options.ablate else ""
    status = finish(report, options)
    if options.record and not options.ablate:  # it would show the same two arms, on fewer chains
        draw_waterfall(report, report.document())
    return status


if __name__ == "__main__":
    sys.exit(main())
