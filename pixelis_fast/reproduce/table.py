"""Rows of all seeds -> the table and the goals: means, 95 % intervals, what was reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from pixelis_fast.eval.intervals import t_interval

Row = dict[str, Any]
COLUMNS: dict[str, tuple[str, Callable[[Row], float | None]]] = {
    "accuracy": ("accuracy %", lambda row: 100 * row["accuracy"]),
    "visfid": ("VisFid", lambda row: row["visfid"]),
    "length": ("calls", lambda row: row["length"]),
    "validity": ("valid calls %", lambda row: times(100, row["validity"])),
    "rapr": ("RaPR", lambda row: row["rapr"]),
    "racpr": ("RaCPR", lambda row: row["racpr"]),
    "kl": ("KL median", lambda row: row.get("ttrl", {}).get("kl_median")),
    "corridor": ("in corridor %", lambda row: times(100, row.get("ttrl", {}).get("in_corridor"))),
    "latency": ("latency s", lambda row: row["latency_s"]),
}


@dataclass(frozen=True)
class Goal:
    """One promise and what was found."""

    goal: str
    target: float
    value: float | None
    met: bool


def times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value


def by_arm(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """In the order the arms came."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["arm"], []).append(row)
    return found


def cell(values: Sequence[float | None]) -> str:
    """Mean and half of the interval's width; a lone seed has no interval and says so."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    if len(known) == 1:
        return f"{known[0]:.2f} (1 seed)"
    interval = t_interval(known)
    return f"{interval.mean:.2f} ± {(interval.high - interval.low) / 2:.2f}"


def as_table(rows: Sequence[Row]) -> Table:
    table = Table("arm", *(title for title, _ in COLUMNS.values()))
    for arm, found in by_arm(rows).items():
        table.add_row(arm, *(cell([of(row) for row in found]) for _, of in COLUMNS.values()))
    return table


def as_markdown(rows: Sequence[Row]) -> str:
    titles = ["arm", *(title for title, _ in COLUMNS.values())]
    lines = [titles, ["---", *("---:" for _ in COLUMNS)]]
    for arm, found in by_arm(rows).items():
        lines.append([arm, *(cell([of(row) for row in found]) for _, of in COLUMNS.values())])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def goals(rows: Sequence[Row]) -> list[Goal]:
    """Those of the method's claims; of arms that were measured."""
    arms = by_arm(rows)
    found: list[Goal] = []
    sft, rft, bare = mean(arms, "sft"), mean(arms, "cc-rft"), mean(arms, "no tools")
    if sft is not None and bare is not None:
        found.append(at_least("sft accuracy, %", 70, 100 * sft))
        found.append(at_least("sft over no tools, points", 35, 100 * (sft - bare)))
    if sft and rft is not None:
        found.append(at_least("cc-rft over sft, relative %", 4, 100 * (rft - sft) / sft))
        longer, shorter = mean(arms, "sft", "length"), mean(arms, "cc-rft", "length")
        if longer and shorter is not None:
            found.append(at_least("cc-rft's chains shorter, %", 25, 100 * (1 - shorter / longer)))
    found += shift_goals(arms)
    return found


def shift_goals(arms: dict[str, list[Row]]) -> list[Goal]:
    """Of test-time learning: mean gain over all shifts, corridor, error of what was voted."""
    kinds = [name.removeprefix("frozen, ") for name in arms if name.startswith("frozen, ")]
    kinds = [kind for kind in kinds if f"ttrl, {kind}" in arms]
    if not kinds:
        return []
    before = float(np.mean([row["accuracy"] for kind in kinds for row in arms[f"frozen, {kind}"]]))
    after = float(np.mean([row["accuracy"] for kind in kinds for row in arms[f"ttrl, {kind}"]]))
    gain = 100 * (after - before)
    found = [at_least("ttrl over frozen under shift, points", 3.5, gain)]
    learned = [row["ttrl"] for kind in kinds for row in arms[f"ttrl, {kind}"]]
    inside = [row["in_corridor"] for row in learned if row["in_corridor"] is not None]
    if inside:
        found.append(at_least("published inside the corridor, %", 99, 100 * float(np.mean(inside))))
    frozen = 1 - before
    voted = 1 - float(np.mean([row["vote_accuracy"] for row in learned]))
    if frozen > 0:
        cut = 100 * (frozen - voted) / frozen
        found.append(at_least("error at selection down by vote, relative %", 15, cut))
    return found


def mean(arms: dict[str, list[Row]], arm: str, column: str = "accuracy") -> float | None:
    values = [row[column] for row in arms.get(arm, []) if row[column] is not None]
    return float(np.mean(values)) if values else None


def at_least(goal: str, target: float, value: float) -> Goal:
    return Goal(goal, target, value, value >= target)
