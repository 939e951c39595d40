"""What the method promises, held against the rows that are there.

Every goal is stated, measured or not, with what it rests on. Two arms are compared over the seeds
that both have: half a table must not set one arm's easy seeds against another's hard ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pixelis_fast.reproduce.rows import Row


@dataclass(frozen=True)
class Goal:
    """One promise and what was found."""

    goal: str
    target: float
    value: float | None
    """None: not measured."""
    met: bool
    rests_on: str
    """Such as "2 of 3 seeds"."""
    complete: bool
    """All that the budget asks for is there."""


class Goals:
    """The rows by arm and seed, and what the budget wants of them.

    Example:
        Goals(rows, seeds=(0, 1, 2), shifts=("noise",)).all()
    """

    def __init__(self, rows: Sequence[Row], *, seeds: Sequence[int], shifts: Sequence[str]) -> None:
        self._rows = {(row["arm"], row["seed"]): row for row in rows}
        self._seeds, self._shifts = tuple(seeds), tuple(shifts)

    def all(self) -> list[Goal]:
        return [*self._of_training(), *self._of_shifts()]

    def _of_training(self) -> list[Goal]:
        alone, tools = self._together("sft"), self._together("sft", "no tools")
        tuned = self._together("cc-rft", "sft")
        return [
            self._seeded("sft accuracy, %", 70, 100 * mean(alone, 0) if alone else None, alone),
            self._seeded("sft over no tools, points", 35, points(tools), tools),
            self._seeded("cc-rft over sft, relative %", 4, relative(tuned), tuned),
            self._seeded("cc-rft's chains shorter, %", 25, shorter(tuned), tuned),
        ]

    def _of_shifts(self) -> list[Goal]:
        """Of test-time learning, over all seeds and shifts."""
        pairs = [
            pair
            for kind in self._shifts
            for pair in self._together(f"ttrl, {kind}", f"frozen, {kind}")
        ]
        published, voted = knowing("below_top", pairs), knowing("vote_accuracy", pairs)
        top = "published at or below the corridor's top, %"
        cut = "error at selection down by vote and abstention, relative %"
        return [
            self._shifted("ttrl over frozen under shift, points", 3.5, points(pairs), pairs),
            self._shifted(top, 99, below_top(published), published),
            self._shifted(cut, 15, error_cut(voted), voted),
        ]

    def _together(self, *arms: str) -> list[tuple[Row, ...]]:
        """Of each seed that has all these arms, their rows."""
        return [
            tuple(self._rows[arm, seed] for arm in arms)
            for seed in self._seeds
            if all((arm, seed) in self._rows for arm in arms)
        ]

    def _seeded(self, goal: str, target: float, value: float | None, over: Sequence) -> Goal:
        return at_least(goal, target, value, len(over), len(self._seeds), "seeds")

    def _shifted(self, goal: str, target: float, value: float | None, over: Sequence) -> Goal:
        wanted = len(self._seeds) * len(self._shifts)
        return at_least(goal, target, value, len(over), wanted, "pairs of seed and shift")


def at_least(
    goal: str, target: float, value: float | None, count: int, wanted: int, unit: str
) -> Goal:
    met = value is not None and value >= target
    return Goal(goal, target, value, met, f"{count} of {wanted} {unit}", count == wanted)


Pairs = Sequence[tuple[Row, ...]]


def mean(pairs: Pairs, place: int, column: str = "accuracy") -> float:
    return float(np.mean([pair[place][column] for pair in pairs]))


def points(pairs: Pairs) -> float | None:
    """By how much the first is the more accurate."""
    return 100 * (mean(pairs, 0) - mean(pairs, 1)) if pairs else None


def relative(pairs: Pairs) -> float | None:
    """None over an accuracy of 0, which nothing is relative to."""
    base = mean(pairs, 1) if pairs else 0.0
    return 100 * (mean(pairs, 0) - base) / base if base else None


def shorter(pairs: Pairs) -> float | None:
    longer = mean(pairs, 1, "length") if pairs else 0.0
    return 100 * (1 - mean(pairs, 0, "length") / longer) if longer else None


def knowing(column: str, pairs: Pairs) -> Pairs:
    """Those whose stream has a value: one that published or voted on nothing has none."""
    return [pair for pair in pairs if pair[0]["ttrl"][column] is not None]


def streamed(pairs: Pairs, column: str) -> float:
    return float(np.mean([pair[0]["ttrl"][column] for pair in pairs]))


def below_top(pairs: Pairs) -> float | None:
    return 100 * streamed(pairs, "below_top") if pairs else None


def error_cut(pairs: Pairs) -> float | None:
    """What the votes that did not abstain err less than one trajectory drawn from each group of
    the same stream. How much of it the vote alone does, the table's columns tell."""
    alone = 1 - streamed(pairs, "one_accuracy") if pairs else 0.0
    if not alone:
        return None
    return 100 * (alone - (1 - streamed(pairs, "vote_accuracy"))) / alone
