"""Rows of all seeds -> the table: means and 95 % intervals, and what they rest on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
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
    return times(100, row["ttrl"][column])


Columns = dict[str, Callable[[Row], float | None]]
ARM_COLUMNS: Columns = {
    "accuracy %": lambda row: 100 * row["accuracy"],
    "drawn %": lambda row: times(100, row.get("drawn", {}).get("accuracy")),
    "VisFid": lambda row: row["visfid"],
    "calls": lambda row: row["length"],
    "valid calls %": lambda row: times(100, row["validity"]),
    "RaPR": lambda row: row["rapr"],
    "RaCPR": lambda row: row["racpr"],
    "latency s": lambda row: row["latency_s"],
}
"""Of the questions; drawn: at the temperature of groups, the others greedily."""
STREAM_COLUMNS: Columns = {
    "KL median": lambda row: row["ttrl"]["kl_median"],
    "in corridor %": lambda row: streamed(row, "in_corridor"),
    "one of a group %": lambda row: streamed(row, "one_accuracy"),
    "abstained %": lambda row: streamed(row, "abstained"),
    "one where voted %": lambda row: streamed(row, "one_where_voted"),
    "vote %": lambda row: streamed(row, "vote_accuracy"),
    "updates": lambda row: row["ttrl"]["updates"],
    "s per update": lambda row: row["ttrl"]["seconds_per_update"],
}
"""Of the queries that were learned from."""
GOAL_TITLES = ("goal", "wanted", "measured", "holds", "rests on")


def by_arm(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """In the order the arms came."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["arm"], []).append(row)
    return found


def cell(values: Sequence[float | None]) -> str:
    """Mean and half of the interval's width, which one seed has not; says where it rests on fewer
    seeds than the row."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    fewer = f" ({len(known)} of {len(values)})" if len(known) < len(values) else ""
    if len(known) == 1:
        return f"{known[0]:.2f}{fewer}"
    interval = t_interval(known)
    return f"{interval.mean:.2f} ± {(interval.high - interval.low) / 2:.2f}{fewer}"


@dataclass(frozen=True)
class Sheet:
    """A table of text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def rich(self) -> Table:
        """For the terminal."""
        table = Table(*self.columns, title=self.title, title_justify="left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        rule = ["---", *("---:" for _ in self.columns[1:])]
        lines = (self.columns, rule, *self.rows)
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def sheets(rows: Sequence[Row], budget: Budget) -> list[Sheet]:
    """The arms; what test-time learning saw, where any arm has learned so."""
    means = f"Means over seeds with 95 % intervals, {budget.test} questions each"
    live = [row for row in rows if "ttrl" in row]
    streams = f"Of the streams, {budget.ttrl_queries} queries each"
    return [
        sheet(means, ARM_COLUMNS, rows, budget),
        *([sheet(streams, STREAM_COLUMNS, live, budget)] if live else []),
    ]


def sheet(title: str, columns: Columns, rows: Sequence[Row], budget: Budget) -> Sheet:
    """A line per arm, with how many of the budget's seeds it has."""
    lines = [
        [
            arm,
            f"{len(found)} of {len(budget.seeds)}",
            *(cell([of(row) for row in found]) for of in columns.values()),
        ]
        for arm, found in by_arm(rows).items()
    ]
    return Sheet(title, ["arm", "seeds", *columns], lines)


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


def all_sheets(rows: Sequence[Row], budget: Budget) -> list[Sheet]:
    """With the goals last."""
    promises = Sheet("Goals", GOAL_TITLES, goal_cells(goals(rows, budget)))
    return [*sheets(rows, budget), promises]


def save(collect: Callable[[], Sequence[Row]], budget: Budget, out: Path) -> None:
    """table.md and rows.json of what is measured so far, by whichever process and seeds."""
    with held(out / "table.lock", wait=True):
        rows = collect()
        seeds = {*budget.seeds, *(row["seed"] for row in rows)}
        budget = replace(budget, seeds=tuple(sorted(seeds)))
        found = [asdict(goal) for goal in goals(rows, budget)]
        texts = [f"{each.title}\n\n{each.markdown()}\n" for each in all_sheets(rows, budget)]
        write_whole(out / "table.md", "\n".join(texts))
        kept = {"budget": asdict(budget), "rows": list(rows), "goals": found}
        write_whole(out / "rows.json", json.dumps(kept, indent=1))
