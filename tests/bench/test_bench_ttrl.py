"""The bench of learning beside serving: one small run to the end."""

import json

from bench import ttrl


def test_a_small_run_ends_with_its_document(capsys, monkeypatch):
    monkeypatch.setattr(ttrl, "QUICK_UPDATES", 1)
    monkeypatch.setattr(ttrl, "QUICK_GROUP", 2)
    monkeypatch.setattr(ttrl, "TOKENS", 4)
    assert ttrl.main(["--quick", "--requests", "1", "--policy", "unit"]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["equal"]
    arms = {(case["name"], case["arm"]) for case in document["cases"]}
    assert {("request", "learner off"), ("request", "learner on"), ("update", "alone")} <= arms
    assert {("publish", "pointer"), ("publish", "weights in place")} <= arms
    assert document["request_p95_ratio"] > 0
    assert set(document["stages_s"]) == {
        "rollout",
        "vote",
        "update",
        "publish",
        "save",
        "remember",
        "log",
    }
