"""Rows of all seeds -> the table: means and 95 % intervals, and what they rest on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.table import Table

from pixelis_fast.eval.arm_run import write_whole
from pixelis_fast.eval.intervals import t_interval
from pixelis_fast.reproduce.budget import Budget
from pixelis_fast.reproduce.goals import Goal, Goals
from pixelis_fast.reproduce.held import held
from pixelis_fast.reproduce.rows import Row


def times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value


def streamed(row: Row, column: str) -> float | None:
    """A share of the stream's queries, in percent; None for an arm that saw none."""
    return times(100, row.get("ttrl", {}).get(column))


COLUMNS: dict[str, tuple[str, Callable[[Row], float | None]]] = {
    "accuracy": ("accuracy %", lambda row: 100 * row["accuracy"]),
    "drawn": ("drawn %", lambda row: times(100, row.get("drawn", {}).get("accuracy"))),
    "visfid": ("VisFid", lambda row: row["visfid"]),
    "length": ("calls", lambda row: row["length"]),
    "validity": ("valid calls %", lambda row: times(100, row["validity"])),
    "rapr": ("RaPR", lambda row: row["rapr"]),
    "racpr": ("RaCPR", lambda row: row["racpr"]),
    "kl": ("KL median", lambda row: row.get("ttrl", {}).get("kl_median")),
    "corridor": ("in corridor %", lambda row: streamed(row, "in_corridor")),
    "one": ("one of a group %", lambda row: streamed(row, "one_accuracy")),
    "one_where_voted": ("where voted %", lambda row: streamed(row, "one_where_voted")),
    "vote": ("vote %", lambda row: streamed(row, "vote_accuracy")),
    "abstained": ("abstained %", lambda row: streamed(row, "abstained")),
    "latency": ("latency s", lambda row: row["latency_s"]),
}
GOAL_TITLES = ("goal", "wanted", "measured", "holds", "rests on")


def by_arm(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """In the order the arms came."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["arm"], []).append(row)
    return found


def cell(values: Sequence[float | None]) -> str:
    """Mean and half of the interval's width; says where it rests on fewer seeds than the row."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    fewer = f" ({len(known)} of {len(values)})" if 1 < len(known) < len(values) else ""
    if len(known) == 1:
        return f"{known[0]:.2f} (1 seed)"
    interval = t_interval(known)
    return f"{interval.mean:.2f} ± {(interval.high - interval.low) / 2:.2f}{fewer}"


def titles() -> list[str]:
    return ["arm", "seeds", *(title for title, _ in COLUMNS.values())]


def cells(rows: Sequence[Row], budget: Budget) -> list[list[str]]:
    """A line per arm, with how many of the budget's seeds it has."""
    return [
        [
            arm,
            f"{len(found)} of {len(budget.seeds)}",
            *(cell([of(row) for row in found]) for _, of in COLUMNS.values()),
        ]
        for arm, found in by_arm(rows).items()
    ]


def goals(rows: Sequence[Row], budget: Budget) -> list[Goal]:
    return Goals(rows, seeds=budget.seeds, shifts=budget.shifts).all()


def goal_cells(found: Sequence[Goal]) -> list[list[str]]:
    return [
        [
            goal.goal,
            f"{goal.target:g}",
            "not measured" if goal.value is None else f"{goal.value:.1f}",
            "yes" if goal.met else "no",
            goal.rests_on,
        ]
        for goal in found
    ]


def as_tables(rows: Sequence[Row], budget: Budget) -> tuple[Table, Table]:
    """For the terminal: the arms, the goals."""
    arms, promises = Table(*titles()), Table(*GOAL_TITLES)
    for line in cells(rows, budget):
        arms.add_row(*line)
    for line in goal_cells(goals(rows, budget)):
        promises.add_row(*line)
    return arms, promises


def as_markdown(rows: Sequence[Row], budget: Budget) -> str:
    found = goal_cells(goals(rows, budget))
    return "\n\n".join(
        (in_markdown(titles(), cells(rows, budget)), in_markdown(GOAL_TITLES, found))
    )


def in_markdown(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in heads[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in (heads, rule, *lines))


def save(collect: Callable[[], Sequence[Row]], budget: Budget, out: Path) -> None:
    """table.md and rows.json of what is measured so far, by whichever process and seeds."""
    with held(out / "table.lock", wait=True):
        rows = collect()
        seeds = {*budget.seeds, *(row["seed"] for row in rows)}
        budget = replace(budget, seeds=tuple(sorted(seeds)))
        found = [asdict(goal) for goal in goals(rows, budget)]
        write_whole(out / "table.md", as_markdown(rows, budget) + "\n")
        kept = {"budget": asdict(budget), "rows": list(rows), "goals": found}
        write_whole(out / "rows.json", json.dumps(kept, indent=1))
