"""`python -m pixelis_fast.data.pixelworld.check --count 50`: are the tasks solvable with the tools.

Runs each task's shortest plan with the real tools and holds what they return against the truth.
`--sheet out.png` draws tasks of each family instead, as they are and as a policy sees them.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from pixelis_fast.data.pixelworld.config import FAMILIES, PixelWorldConfig
from pixelis_fast.data.pixelworld.sheet import draw_sheet
from pixelis_fast.data.pixelworld.solve import Solved, solve
from pixelis_fast.data.pixelworld.world import PixelWorld
from pixelis_fast.data.shift import ShiftConfig
from pixelis_fast.tools import ToolConfig, open_tools

console = Console()


def check(
    count: Annotated[int, typer.Option(help="Tasks per family.")] = 50,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "train",
    seed: Annotated[int, typer.Option(help="Of the world.")] = 0,
    families: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(FAMILIES),
    backgrounds: Annotated[str, typer.Option(help="mixed, photos, procedural.")] = "mixed",
    plan: Annotated[int, typer.Option(help="Which plan; 0 is the shortest.")] = 0,
    shift: Annotated[str, typer.Option(help="kind:severity, for example noise:3.")] = "",
    wrong: Annotated[bool, typer.Option(help="Print what went wrong.")] = False,
    sheet: Annotated[Path | None, typer.Option(help="Draw a contact sheet here.")] = None,
) -> None:
    """Prints, by family, how often a plan leads to the answer and what a task costs to draw."""
    config = PixelWorldConfig(seed=seed, backgrounds=backgrounds, shift=_shift(shift))
    if sheet is not None:
        draw_sheet(config, split, sheet)
        console.print(f"drawn: {sheet}")
        return
    table = Table("family", "right", "mean IoU", "IoU > 0.85", "exact time", "ms to draw")
    for family in families.split(","):
        one = replace(config, families={family: 1.0})
        solved, drawn_ms = _run(one, split, count, plan, wrong=wrong)
        table.add_row(family, *_row(solved), f"{drawn_ms:.1f}")
    console.print(table)


def _run(
    config: PixelWorldConfig, split: str, count: int, plan: int, *, wrong: bool
) -> tuple[list[Solved], float]:
    """(what came of each task, median milliseconds of the processor to draw one)."""
    world, tools = PixelWorld(config), open_tools(ToolConfig(store_bytes=1 << 27))
    family = next(iter(config.families))
    solved, spent = [], []
    with tempfile.TemporaryDirectory() as folder:
        for index in track(range(count), description=family, console=console, transient=True):
            start = time.process_time()
            task = world.task(split, index)
            spent.append((time.process_time() - start) * 1e3)
            result = solve(task, task.plans[plan % len(task.plans)], tools, Path(folder))
            solved.append(result)
            if wrong and not result.is_right:
                console.print(f"{task.id}: {task.question} {task.answer!r}, got {result.said!r}")
    return solved, statistics.median(spent)


def _row(solved: Sequence[Solved]) -> list[str]:
    ious = [iou for one in solved for iou in one.ious]
    times = [one.off_s for one in solved if one.off_s is not None]
    return [
        f"{sum(one.is_right for one in solved)}/{len(solved)}",
        f"{statistics.mean(ious):.3f}" if ious else "",
        f"{sum(iou > 0.85 for iou in ious)}/{len(ious)}" if ious else "",
        f"{sum(off < 0.05 for off in times)}/{len(solved)}" if times else "",
    ]


def _shift(text: str) -> ShiftConfig | None:
    if not text:
        return None
    kind, _, severity = text.partition(":")
    return ShiftConfig(kind, int(severity or 3))


if __name__ == "__main__":
    typer.run(check)
