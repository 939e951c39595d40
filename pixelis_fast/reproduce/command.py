"""`pixelis reproduce`: the method's table from one command."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pixelis_fast.reproduce.budget import BUDGETS
from pixelis_fast.reproduce.runner import Reproduction
from pixelis_fast.reproduce.table import as_markdown, as_table, goals

CONSOLE = Console()


def command(
    out: Annotated[Path, typer.Option(help="Folder; started again, it goes on.")] = Path(
        "runs/reproduce"
    ),
    budget: Annotated[str, typer.Option(help=f"One of {', '.join(BUDGETS)}.")] = "cpu",
    seeds: Annotated[int | None, typer.Option(help="How many; without, the budget's.")] = None,
) -> None:
    """Trains and measures every arm; prints the table with its goals."""
    if budget not in BUDGETS:
        raise typer.BadParameter(f"expected one of {', '.join(BUDGETS)}, got {budget}")
    chosen = BUDGETS[budget]
    if seeds is not None:
        chosen = replace(chosen, seeds=tuple(range(seeds)))
    rows = Reproduction(out, chosen).run(on_row=tell)
    found = goals(rows)
    (out / "table.md").write_text(as_markdown(rows) + "\n")
    (out / "rows.json").write_text(
        json.dumps({"rows": rows, "goals": [asdict(goal) for goal in found]}, indent=1)
    )
    CONSOLE.print(as_table(rows))
    table = Table("goal", "target", "found", "")
    for goal in found:
        table.add_row(goal.goal, f"{goal.target:g}", f"{goal.value:.1f}", "✓" if goal.met else "✗")
    CONSOLE.print(table)


def tell(row: dict[str, Any]) -> None:
    CONSOLE.print(
        f"{row['arm']} (seed {row['seed']}): accuracy {100 * row['accuracy']:.1f} %, "
        f"{row['length']:.1f} calls"
    )


if __name__ == "__main__":
    typer.run(command)
