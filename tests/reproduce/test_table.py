"""The table: means and intervals over seeds, and goals that can be missed."""

from __future__ import annotations

from typing import Any

import pytest

from pixelis_fast.reproduce.table import as_markdown, by_arm, cell, goals


def row(arm: str, accuracy: float, *, length: float = 4.0, seed: int = 0, **more: Any) -> dict:
    empty = dict.fromkeys(("visfid", "validity", "rapr", "racpr"), None)
    return {
        "arm": arm,
        "seed": seed,
        "accuracy": accuracy,
        "length": length,
        "latency_s": 1.0,
        **empty,
        **more,
    }


def learned(vote_accuracy: float, in_corridor: float | None = 1.0) -> dict:
    return {"vote_accuracy": vote_accuracy, "in_corridor": in_corridor, "kl_median": 0.15}


ROWS = [
    row("no tools", 0.20),
    row("sft", 0.70),
    row("sft", 0.74, seed=1),
    row("cc-rft", 0.78, length=2.5),
    row("frozen, noise", 0.60),
    row("ttrl, noise", 0.66, ttrl=learned(0.70)),
    row("frozen, lighting", 0.50),
    row("ttrl, lighting", 0.54, ttrl=learned(0.60, in_corridor=None)),
]


def found(rows: list[dict]) -> dict[str, tuple[float, bool]]:
    return {goal.goal: (round(goal.value, 6), goal.met) for goal in goals(rows)}


def test_goals_are_the_methods_and_can_be_missed():
    assert found(ROWS) == {
        "sft accuracy, %": (72.0, True),
        "sft over no tools, points": (52.0, True),
        "cc-rft over sft, relative %": (round(100 * 0.06 / 0.72, 6), True),
        "cc-rft's chains shorter, %": (37.5, True),
        "ttrl over frozen under shift, points": (5.0, True),
        "published inside the corridor, %": (100.0, True),
        "error at selection down by vote, relative %": (round(100 * 0.10 / 0.45, 6), True),
    }
    worse = [row("no tools", 0.5), row("sft", 0.6), row("cc-rft", 0.6)]
    assert not any(met for _, met in found(worse).values())


def test_arms_that_were_not_measured_promise_nothing():
    assert found([row("sft", 0.9)]) == {}
    assert "ttrl over frozen under shift, points" not in found([row("frozen, noise", 0.5)])


def test_a_cell_says_how_many_seeds_it_rests_on():
    assert cell([70.0]) == "70.00 (1 seed)"
    assert cell([None, None]) == "–"
    # Student's t with two degrees of freedom: 4.303 standard errors.
    assert cell([69.0, 70.0, 71.0]) == f"70.00 ± {4.303 / 3**0.5:.2f}"


def test_rows_keep_the_order_of_arms():
    assert list(by_arm(ROWS))[:3] == ["no tools", "sft", "cc-rft"]
    lines = as_markdown(ROWS).splitlines()
    assert len(lines) == 2 + len(by_arm(ROWS))
    assert all(line.count("|") == lines[0].count("|") for line in lines)


@pytest.mark.parametrize("met", [True, False])
def test_a_goal_at_its_target_is_met(met):
    rows = [row("no tools", 0.1), row("sft", 0.70 if met else 0.69)]
    [first, *_] = goals(rows)
    assert first.met is met
