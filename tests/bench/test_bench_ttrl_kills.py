"""Rounds of kills: what a learner's own end counts as."""

import random

import pytest

from bench import ttrl_kills
from bench.ttrl_kills import Found, kill_once, say


@pytest.fixture
def found(monkeypatch):
    monkeypatch.setattr(ttrl_kills, "LATEST_S", 0.5)
    return Found()


def test_a_learner_that_ends_by_itself_is_a_problem(found, monkeypatch, tmp_path):
    def breaks(folder, out, acknowledged):
        say(out, problems=[], query=0)
        raise FileNotFoundError("step-00000374")

    monkeypatch.setattr(ttrl_kills, "learn", breaks)
    kill_once(tmp_path, random.Random(0), found)
    assert found.problems == ["learner: ended by an error of its own, which stands above"]


def test_a_learner_that_is_killed_is_none(found, monkeypatch, tmp_path):
    def learns(folder, out, acknowledged):
        say(out, problems=[], query=0)
        while True:
            say(out, query=acknowledged)

    monkeypatch.setattr(ttrl_kills, "learn", learns)
    kill_once(tmp_path, random.Random(0), found)
    assert found.problems == []
    assert found.acknowledged == 1
