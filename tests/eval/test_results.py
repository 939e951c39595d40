"""A run's figures: intervals are of the score that is shown, whatever a benchmark's score is."""

from __future__ import annotations

import pytest

from pixelis_fast.eval.benchmark_types import Item
from pixelis_fast.eval.cases import Case, CaseSet
from pixelis_fast.eval.journal import Entry
from pixelis_fast.eval.results import ArmEntries, results
from pixelis_fast.eval.vsibench import summary
from pixelis_fast.types import Sample, Step, Trajectory


def no_sample(tools) -> Sample:
    raise AssertionError("nothing is asked")


CATEGORIES = ["object_counting"] * 90 + ["route_planning"] * 10
ITEMS = [Item(str(n), (), "?", ("1",), category) for n, category in enumerate(CATEGORIES)]
CASES = CaseSet(
    "vsibench",
    tuple(Case(i.id, i.category, "1", no_sample, lambda answer: 0.0) for i in ITEMS),
    ITEMS,
    summary,
)


def entries(name: str, scores: list[float]) -> ArmEntries:
    trajectory = Trajectory(Sample("s", (), "?"), "v", 0, steps=[Step(0, 1)], answer="1")
    pairs = enumerate(scores)
    return ArmEntries(name, tuple(Entry(str(n), 0, score, trajectory) for n, score in pairs))


def test_the_interval_is_of_the_mean_over_tasks_where_that_is_the_score():
    good, bad = [1.0] * 90, [0.0, 1.0] * 45
    arms = [entries("base", bad + [0.0] * 10), entries("ours", good + [0.0, 1.0] * 5)]
    found = results(arms, CASES, [0])["arms"]
    assert found["base"]["scores"]["overall"] == 0.25
    assert found["ours"]["scores"]["overall"] == 0.75
    for name, overall in (("base", 0.25), ("ours", 0.75)):
        interval = found[name]["over_samples"]
        assert interval["mean"] == overall
        assert interval["low"] <= overall <= interval["high"]
    # Half of the score hangs on ten items: half a standard error of sqrt(0.25 / 10), times 1.96.
    width = found["ours"]["over_samples"]["high"] - found["ours"]["over_samples"]["low"]
    assert width == pytest.approx(2 * 1.96 * 0.5 * (0.25 / 10) ** 0.5, rel=0.2)
    assert found["ours"]["gain"]["difference"]["mean"] == 0.5
    assert found["ours"]["gain"]["relative"] == 2.0
