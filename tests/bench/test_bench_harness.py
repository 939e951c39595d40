"""The harness: statistics, order of runs, equality, goals, and the form of the JSON document."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

from bench.card import ROOT, machine_card, slug
from bench.harness import (
    Check,
    Goal,
    Report,
    Timing,
    finish,
    interleave,
    parse_options,
    shown_ms,
)

CASE_KEYS = {"name", "arm", "p20_ms", "p50_ms", "p80_ms", "n"}
GOAL_KEYS = {"goal", "target", "value", "met"}


def options(*argv: str):
    return parse_options("test", arms=("naive", "ours"), argv=argv)


def report(*, checks: list[Check], goals: list[Goal] | None = None) -> Report:
    timings = [
        Timing("chain", "naive", (40.0, 44.0, 42.0)),
        Timing("chain", "ours", (10.0, 11.0, 10.5)),
    ]
    made = Report("demo", options("--quick"), ours="ours", baseline="naive", timings=timings)
    made.checks, made.goals = checks, goals or []
    return made


GOOD = Check.at_most("chain", "difference", 0.1, 1.0)
BAD = Check.at_most("chain", "difference", 2.0, 1.0)


def test_percentiles_are_numpys():
    samples = tuple(np.random.default_rng(0).exponential(10, 37))
    case = Timing("a", "ours", samples).as_case()
    for percent in (20, 50, 80, 90, 99):
        assert case[f"p{percent}_ms"] == pytest.approx(np.percentile(samples, percent), abs=1e-4)
    assert case["n"] == 37


def test_arms_take_turns_and_rotate():
    calls: list[str] = []
    arms = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    samples = interleave(arms, warmup=1, runs=4)
    assert calls[:3] == ["a", "b", "c"]
    rounds = [calls[i : i + 3] for i in range(3, len(calls), 3)]
    assert ["".join(each) for each in rounds] == ["abc", "bca", "cab", "abc"]
    assert all(len(sample.ms) == 4 for sample in samples.values())


def test_results_stay_in_order_of_runs():
    number = itertools.count()
    samples = interleave({"a": lambda: next(number)}, warmup=2, runs=3)
    assert samples["a"].results == [2, 3, 4]


def test_short_calls_are_repeated_to_fill_a_sample():
    number = itertools.count()
    interleave({"a": lambda: next(number)}, warmup=2, runs=1, min_sample_ms=1.0)
    assert next(number) > 10


def test_document_has_the_form_every_benchmark_shares(capsys):
    made = report(checks=[GOOD], goals=[Goal.at_least("ratio", 3.0, 4.0)])
    assert finish(made, made.options) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    kinds = {"bench": str, "commit": str, "machine": dict, "cases": list, "ratios": dict}
    for key, kind in (kinds | {"equal": bool, "goals": list}).items():
        assert isinstance(document[key], kind), key
    assert all(case.keys() >= CASE_KEYS for case in document["cases"])
    assert all(goal.keys() >= GOAL_KEYS for goal in document["goals"])
    assert {case["arm"] for case in document["cases"]} == {"naive", "ours"}
    assert document["equal"]
    assert document["ratios"] == {"chain": 4.0}
    assert document["baseline"] == "naive"


def test_the_wall_time_is_the_whole_process_s(capsys):
    code = (
        "import time; start = time.perf_counter(); time.sleep(0.5)\n"
        "from bench.harness import process_wall_s\n"
        "print(time.perf_counter() - start, process_wall_s())"
    )
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    since_first_line, wall = (float(word) for word in told.stdout.split())
    assert since_first_line - 0.1 <= wall <= since_first_line + 5
    made = report(checks=[GOOD])
    finish(made, made.options)
    printed = capsys.readouterr()
    wall = json.loads(printed.out)["wall_s"]
    assert f"the whole command took {wall} s" in printed.err


def test_stdout_is_one_line(capsys):
    made = report(checks=[GOOD])
    finish(made, made.options)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_unequal_work_has_no_ratio_and_names_the_check():
    document = report(checks=[GOOD, BAD]).document()
    assert not document["equal"]
    assert document["ratios"] == {}
    assert document["failed"] == ["chain: difference = 2.0, expected <= 1"]


def test_no_check_is_not_equality():
    assert not report(checks=[]).equal


def test_not_a_number_holds_no_limit():
    assert not Check.at_most("chain", "difference", float("nan"), 1.0).passed


@pytest.mark.parametrize(("value", "met"), [(3.9, False), (4.0, True), (None, False)], ids=str)
def test_goal(value, met):
    assert Goal.at_least("ratio", 4.0, value).met is met


def test_baseline_by_case():
    made = report(checks=[GOOD])
    made.baseline = {"chain": "ours"}
    assert made.ratios() == {"chain": 1.0}


def test_command_names_no_path():
    made = options("--quick", "--json", "/somewhere/a.json", "--arms", "ours")
    assert made.command.endswith("--quick --arms ours")
    assert "/somewhere" not in made.command


@pytest.mark.parametrize(
    "argv", [("--arms", "other"), ("--arms", ""), ("--threads", "0"), ("--runs", "0")], ids=str
)
def test_bad_options_end_the_program(argv):
    with pytest.raises(SystemExit):
        options(*argv)


def test_card_lists_missing_packages():
    versions = machine_card("cpu", 1)["versions"]
    assert versions["torch"][0].isdigit()
    assert all(versions.values())


@pytest.mark.parametrize(
    ("milliseconds", "text"), [(0.01234, "0.0123"), (12.345, "12.35"), (47813.3, "47813")], ids=str
)
def test_shown_ms(milliseconds, text):
    assert shown_ms(milliseconds) == text


def test_slug():
    assert slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
    assert slug("Intel(R) Xeon(R) 8 cores") == "intel-xeon-8-cores"
