"""`pixelis eval`: a benchmark or a file of questions, a policy, and what it is compared with."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pixelis_fast.agent import AgentConfig
from pixelis_fast.eval.arm_run import Plan
from pixelis_fast.eval.arms import Arm
from pixelis_fast.eval.benchmarks import BENCHMARKS
from pixelis_fast.eval.journal import FAILURES
from pixelis_fast.eval.run import REPORT, EvalConfig, main

SAMPLES, NO_TOOLS, NOTHING = "samples", "no-tools", "nothing"


def evaluate(
    what: Annotated[
        str, typer.Argument(help=f"{', '.join(BENCHMARKS)}, or {SAMPLES} for a file of questions.")
    ],
    path: Annotated[Path, typer.Argument(help="The benchmark's folder, or the file.")],
    options: Callable[[], AgentConfig],
    out: Annotated[Path, typer.Option(help="Folder for answers, figures and report.")],
    baseline: Annotated[
        str,
        typer.Option(
            help=f"A checkpoint folder; {NO_TOOLS}: the same policy without tools; {NOTHING}."
        ),
    ] = NO_TOOLS,
    limit: Annotated[int | None, typer.Option(help="Only the first so many questions.")] = None,
    seeds: Annotated[int, typer.Option(help="Times every question is asked.", min=1)] = 1,
    batch: Annotated[int, typer.Option(help="Questions at once.", min=1)] = 8,
    traces: Annotated[int, typer.Option(help="Questions whose traces are in the report.")] = 24,
) -> None:
    """Scores a policy against a baseline; goes on where an earlier run stopped."""
    config = EvalConfig(
        out=out,
        arms=arms(options(), baseline),
        benchmark=None if what == SAMPLES else what,
        folder=None if what == SAMPLES else path,
        samples=path if what == SAMPLES else None,
        limit=limit,
        plan=Plan(seeds=tuple(range(seeds)), batch=batch, traces=traces),
    )
    console = Console()
    results = main(config)
    console.print(results_table(results))
    if any(num_failed(arm) for arm in results["arms"].values()):
        console.print("failed questions count as wrong; the same command asks them again")
    console.print(f"report in {escape(str(out / REPORT))}")


def arms(agent: AgentConfig, baseline: str) -> tuple[Arm, ...]:
    """The baseline first."""
    ours = Arm("ours", agent)
    if baseline == NOTHING:
        return (ours,)
    if baseline == NO_TOOLS:
        return Arm("without tools", agent, tools=False), ours
    return Arm("baseline", replace(agent, policy=baseline)), ours


def num_failed(arm: dict[str, Any]) -> int:
    """Questions that the machine failed on: they count as wrong, and are asked again next time."""
    return sum(arm["statuses"].get(each.value, 0) for each in FAILURES)


def results_table(results: dict[str, Any]) -> Table:
    """One row per arm."""
    table = Table("arm", "score", "95 % interval", "gain", "calls", "visual fidelity", "failed")
    for name, arm in results["arms"].items():
        interval, gain = arm["over_samples"], arm.get("gain", {}).get("relative")
        table.add_row(
            escape(name),
            f"{100 * arm['scores']['overall']:.2f} %",
            f"{100 * interval['low']:.2f} to {100 * interval['high']:.2f} %",
            "" if gain is None else f"{100 * gain:+.2f} %",
            f"{arm['chains']['length']:.2f}",
            "" if arm["chains"]["visfid"] is None else f"{arm['chains']['visfid']:.3f}",
            str(num_failed(arm)),
        )
    return table
