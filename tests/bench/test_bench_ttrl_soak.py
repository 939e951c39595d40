"""The soak of a learner: one small run to the end, and what it would call growth."""

import json

import pytest

from bench import ttrl_soak
from bench.process import slope_mb


def test_a_small_run_ends_with_its_document(capsys):
    assert ttrl_soak.main(["--quick", "--updates", "3"]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["equal"]
    assert document["updates"] == 3
    assert sum(document["statuses"].values()) == document["queries"] >= 3
    assert {goal["goal"]: goal["met"] for goal in document["goals"]} == {
        "published above the corridor's top": True,
        "updates published": True,
    }


def test_growth_is_what_comes_behind_the_warm_up():
    done = list(range(0, 1000, 10))
    resident_mb = [100.0 + min(n, 400) + 0.02 * max(n - 400, 0) for n in done]
    assert slope_mb(done, resident_mb) == pytest.approx(20.0)
