"""The long stream: one small run of both arms to the end."""

import json

import pytest

from bench import ttrl_drift


def test_both_arms_end_with_their_document(capsys):
    assert ttrl_drift.main(["--quick"]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["equal"]
    for arm in document["arms"].values():
        assert [point["queries"] for point in arm["points"]] == [0, 1, 2, 3, 4]
        assert sum(arm["statuses"].values()) == 4
    assert [row[0] for row in document["tables"][0]["rows"]] == ["0", "1", "2", "3", "4"]


def test_a_stream_shorter_than_its_parts_is_refused():
    with pytest.raises(SystemExit, match="--queries: expected at least 4, got 3"):
        ttrl_drift.main(["--queries", "3"])


def test_what_safety_keeps_is_the_difference_of_both():
    def course(start, end, kls):
        points = [
            ttrl_drift.Point(queries, queries, accuracy, 1.0, 3.0)
            for queries, accuracy in ((0, start), (1000, end))
        ]
        return ttrl_drift.Course(points=points, kls=kls)

    top = ttrl_drift.CORRIDOR.high
    goals = {
        goal.goal: goal.value
        for goal in ttrl_drift.goals_of(
            {"safe": course(0.5, 0.54, [top, top / 2, 2 * top]), "unsafe": course(0.5, 0.4, [1.0])}
        )
    }
    assert goals == {
        "updates, the arm with fewer": 0,
        "published at or below the corridor's top, %": 66.67,
        "safe: points gained under the shift": 4.0,
        "points that safety keeps": 14.0,
    }
