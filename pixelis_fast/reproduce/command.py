"""`pixelis reproduce`: the method's table from one command."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pixelis_fast.reproduce.budget import BUDGETS, Budget
from pixelis_fast.reproduce.rows import Row
from pixelis_fast.reproduce.runner import Reproduction
from pixelis_fast.reproduce.table import all_sheets, save

CONSOLE = Console()


def command(
    out: Annotated[Path, typer.Option(help="Folder; started again, it goes on.")] = Path(
        "runs/reproduce"
    ),
    budget: Annotated[str, typer.Option(help=f"One of {', '.join(BUDGETS)}.")] = "cpu",
    seeds: Annotated[
        int | None, typer.Option(help="How many; without, the budget's.", min=1)
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Compute threads; without, the budget's.", min=1)
    ] = None,
    known: Annotated[
        list[Path] | None,
        typer.Option(help="rows.json of another folder, or a recorded result: not made again."),
    ] = None,
) -> None:
    """Trains and measures every arm; prints the table with its goals.

    Started again while it runs, with the same folder, it shares the work. On two cores, two
    processes of one thread took 49 s each for a step of cc-rft, one of two threads 50 s.
    """
    if budget not in BUDGETS:
        raise typer.BadParameter(f"expected one of {', '.join(BUDGETS)}, got {budget}")
    chosen = BUDGETS[budget]
    if seeds is not None:
        chosen = replace(chosen, seeds=tuple(range(seeds)))
    if threads is not None:
        chosen = replace(chosen, threads=threads)
    reproduction = Reproduction(out, chosen)
    for record in known or ():
        CONSOLE.print(f"{record}: {reproduction.rows.adopt(record)} rows taken over")
    rows = reproduction.run(on_row=partial(keep, reproduction, chosen, out))
    for each in all_sheets(rows, chosen):
        CONSOLE.print(each.rich())


def keep(reproduction: Reproduction, budget: Budget, out: Path, row: Row) -> None:
    """The newest row told, and all of them on disk: a table of what is there."""
    CONSOLE.print(
        f"{row['arm']} (seed {row['seed']}): accuracy {100 * row['accuracy']:.1f} %, "
        f"{row['length']:.1f} calls"
    )
    save(reproduction.collect_all, budget, out)


if __name__ == "__main__":
    typer.run(command)
