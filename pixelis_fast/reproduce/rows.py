"""Where a reproduction keeps what it made: one folder per seed and arm, with its row once measured.

The folder belongs to one budget. Seeds may be added to it, and threads changed: both leave what is
there as it is. Several processes may make rows in it at once; each is made by one of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pixelis_fast.eval.arm_run import write_whole
from pixelis_fast.reproduce.budget import Budget
from pixelis_fast.reproduce.held import held

Row = dict[str, Any]
ROW, MADE, BUDGET = "row.json", "made.json", "budget.json"
ROW_LOCK, MADE_LOCK, BUDGET_LOCK = "row.lock", "made.lock", "budget.lock"
SEED = "seed-"
MAY_CHANGE = ("threads", "seeds")


class RowFolder:
    """The rows of one budget.

    Example:
        RowFolder(Path("runs/reproduce"), BUDGETS["cpu"]).found(["no tools", "sft"], [0])
    """

    def __init__(self, out: Path, budget: Budget) -> None:
        self.out, self.budget = out, budget

    def claim(self) -> None:
        """From now on the folder is of this budget; ValueError where it is of another."""
        with held(self.out / BUDGET_LOCK, wait=True):
            if not self._is_claimed():
                write_whole(self.out / BUDGET, json.dumps(self._settings(), indent=1) + "\n")

    def adopt(self, record: Path) -> int:
        """Takes over rows that were made elsewhere, and are not here, as measured; their number.

        `record`: rows.json of another folder, or what a benchmark recorded. ValueError where it is
        neither, or of another budget.
        """
        self.claim()
        try:
            found = json.loads(record.read_text())
            budget, rows = (
                found["budget"],
                [(row["arm"], row["seed"], row) for row in found["rows"]],
            )
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            expected = 'an object with a "budget" and "rows" of an "arm" and a "seed"'
            raise ValueError(f"{record}: expected {expected}, got {error!r}") from error
        self._check(record, settings(budget))
        return sum(self._take(*each) for each in rows)

    def _take(self, arm: str, seed: int, row: Row) -> bool:
        path = self.folder(seed, arm) / ROW
        with held(path.with_name(ROW_LOCK), wait=False) as ours:
            is_new = ours and not path.is_file()
            if is_new:
                write_whole(path, json.dumps(row, indent=1))
        return is_new

    def _is_claimed(self) -> bool:
        path = self.out / BUDGET
        if path.is_file():
            self._check(path, json.loads(path.read_text()))
        return path.is_file()

    def _check(self, path: Path, found: dict[str, Any]) -> None:
        if found != (wanted := self._settings()):
            apart = {k: found.get(k) for k in wanted | found if found.get(k) != wanted.get(k)}
            raise ValueError(f"{path}: expected the budget {wanted}, got another: {apart}")

    def _settings(self) -> dict[str, Any]:
        return settings(json.loads(json.dumps(asdict(self.budget))))

    def seeds(self) -> list[int]:
        """The budget's, and those that another process has begun with another number of them."""
        begun = (int(path.name.removeprefix(SEED)) for path in self.out.glob(f"{SEED}*"))
        return sorted({*self.budget.seeds, *begun})

    def folder(self, seed: int, arm: str) -> Path:
        return self.out / f"{SEED}{seed}" / slug(arm)

    def row(self, arm: str, seed: int, make: Callable[[], Row], *, wait: bool = True) -> Row | None:
        """What is measured stays; what is not is made. None where another process makes it and we
        do not wait for that."""
        path = self.folder(seed, arm) / ROW
        if not path.is_file():
            with held(path.with_name(ROW_LOCK), wait=wait) as ours:
                if not ours:
                    return None
                if not path.is_file():
                    made = {"arm": arm, "seed": seed, "threads": self.budget.threads} | make()
                    write_whole(path, json.dumps(made, indent=1))
        return json.loads(path.read_text())

    def found(self, arms: Iterable[str], seeds: Iterable[int]) -> list[Row]:
        """The rows that are there, and nothing made; ValueError where there is none."""
        if not self._is_claimed():
            raise ValueError(f"{self.out}: expected a reproduction's {BUDGET}, found none")
        names = list(arms)
        paths = [self.folder(seed, arm) / ROW for seed in seeds for arm in names]
        rows = [json.loads(path.read_text()) for path in paths if path.is_file()]
        if not rows:
            raise ValueError(f"{self.out}: expected at least one measured arm, found none")
        return rows


def settings(budget: dict[str, Any]) -> dict[str, Any]:
    """What all rows of a table share."""
    return {name: value for name, value in budget.items() if name not in MAY_CHANGE}


def slug(arm: str) -> str:
    """An arm's folder."""
    return arm.replace(", ", "-").replace(" ", "-")


def once(folder: Path, make: Callable[[], Path]) -> Path:
    """What `make` gave when it last ran to its end in this folder; else it runs, or another
    process that is at it is waited for."""
    note = folder / MADE
    if not note.is_file():
        with held(folder / MADE_LOCK, wait=True):
            if not note.is_file():
                made = make()
                write_whole(note, json.dumps({"made": str(made.relative_to(folder))}))
    return folder / json.loads(note.read_text())["made"]
