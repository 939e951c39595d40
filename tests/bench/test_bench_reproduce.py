"""The table as a benchmark: collected from what is there, or made by the command's own runner."""

from __future__ import annotations

import json
from functools import partial

import pytest

from bench import harness, record, reproduce
from pixelis_fast.reproduce.budget import CPU
from pixelis_fast.reproduce.rows import RowFolder
from pixelis_fast.reproduce.runner import ArmTask, Reproduction


def columns(accuracy: float, *, count: int = CPU.test, **more) -> dict:
    empty = dict.fromkeys(("visfid", "validity", "rapr", "racpr"), None)
    shown = {"accuracy": accuracy, "length": 3.0, "latency_s": 2.0, "count": count}
    return {**empty, **shown, "by_family": {}, **more}


def put(folder: RowFolder, arm: str, accuracies: list[float], **more) -> None:
    for seed, accuracy in enumerate(accuracies):
        folder.row(arm, seed, partial(columns, accuracy, **more))


@pytest.fixture
def partly(tmp_path):
    """A folder of which some arms were measured, and one of them with one seed only."""
    folder = RowFolder(tmp_path / "run", CPU)
    folder.claim()
    put(folder, "no tools", [0.2, 0.2, 0.2])
    put(folder, "sft", [0.70, 0.72, 0.74])
    put(folder, "cc-rft", [0.80], latency_s=1.0)
    return folder.out


def document(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_partly_finished_folder_is_collected_with_its_seeds(partly, capsys):
    before = sorted(path.name for path in partly.rglob("*"))
    assert reproduce.main(["--collect", "--out", str(partly), "--budget", "cpu"]) == 0
    found = document(capsys)
    assert sorted(path.name for path in partly.rglob("*")) == before, "nothing was made"
    assert found["equal"]
    assert len(found["rows"]) == 7
    seeds = found["seeds"]
    assert (seeds["sft"], seeds["cc-rft"], seeds["ttrl in domain"]) == (3, 1, 0)
    assert found["ratios"] == {reproduce.CASE: 2.0}
    [table] = found["tables"]
    assert table["rows"][1][:2] == ["sft", "3 of 3"]
    assert table["rows"][1][2].startswith("72.00 ± ")
    goals = {goal["goal"]: goal for goal in found["goals"]}
    assert goals["sft accuracy, % (3 of 3 seeds)"]["met"]
    assert goals["cc-rft over sft, relative % (1 of 3 seeds)"]["met"]
    pairs = 3 * len(CPU.shifts)
    live = goals[f"ttrl over frozen under shift, points (0 of {pairs} pairs of seed and shift)"]
    assert (live["value"], live["met"]) == (None, False)
    notes = " ".join(found["notes"])
    assert "nothing ran now" in notes
    assert "fewer than 3 seeds: cc-rft (1)" in notes
    assert "not measured: sft, uniform weights, no heads" in notes
    assert "rows were made with 2 threads" in notes


def test_it_is_recorded_as_every_benchmark(partly, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(
        harness, "write_results", partial(record.write_results, folder=tmp_path / "bench")
    )
    assert reproduce.main(["--collect", "--out", str(partly), "--record"]) == 0
    found = document(capsys)
    device = tmp_path / "bench/results" / found["machine"]["slug"]
    assert json.loads((device / "reproduce.json").read_text()) == found
    page = (tmp_path / "bench/RESULTS.md").read_text()
    assert " --collect --out run --record · " in page
    assert "Goal met: sft accuracy, % (3 of 3 seeds), target 70, value 72.0" in page
    assert str(tmp_path) not in page


def test_arms_may_be_chosen_by_their_folders(partly, capsys):
    given = ["--collect", "--out", str(partly), "--arms", "sft,cc-rft"]
    assert reproduce.main(given) == 0
    assert {row["arm"] for row in document(capsys)["rows"]} == {"sft", "cc-rft"}


def test_rows_of_fewer_questions_are_no_equal_work(partly, capsys):
    put(RowFolder(partly, CPU), "task reward only", [0.7], count=7)
    assert reproduce.main(["--collect", "--out", str(partly)]) == 1
    found = document(capsys)
    assert found["failed"] == [
        f"{reproduce.CASE}: questions of task reward only, seed 0 = 7, expected == {CPU.test}"
    ]
    assert found["ratios"] == {}


def test_without_collect_the_commands_own_runner_makes_the_rows(capsys, tmp_path, monkeypatch):
    def tasks(self, seed):
        for arm in ("sft", "cc-rft"):
            yield ArmTask(arm, partial(columns, 0.5, count=self.budget.test))

    monkeypatch.setattr(Reproduction, "tasks", tasks)
    assert reproduce.main(["--quick", "--out", str(tmp_path)]) == 0
    found = document(capsys)
    assert [row["arm"] for row in found["rows"]] == ["sft", "cc-rft"]
    assert any("its numbers mean nothing" in note for note in found["notes"])
    kept = json.loads((tmp_path / "rows.json").read_text())
    assert kept["rows"] == found["rows"]
    assert (tmp_path / "seed-0/cc-rft/row.json").is_file()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--collect", "--out", "nowhere"], "--collect: nowhere: expected a reproduction's budget"),
        (["--quick", "--budget", "cpu"], "--budget: expected quick with --quick, got cpu"),
        (["--budget", "gpu"], "--device: expected cuda, where the budget gpu trains, got cpu"),
        (["--ablate"], "--ablate, --runs: expected neither"),
    ],
)
def test_what_cannot_be_is_said(given, message):
    with pytest.raises(SystemExit, match=message):
        reproduce.main(given)


def test_another_budgets_folder_is_refused(partly):
    with pytest.raises(SystemExit, match=r"--collect: .*expected the budget"):
        reproduce.main(["--collect", "--quick", "--out", str(partly)])
