"""A host kernel that is wrong prints no speed, whatever the others do."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bench import kernel_cases, kernels
from bench.harness import Report, parse_options
from bench.kernel_cases import Case
from bench.kernel_host import run_host_ops

RUN = ["--ops", "patchify,resize", "--quick", "--runs", "1"]


def small_case(op: str, number: int = 0) -> Case:
    """Ours is right: it gives what the peer gives."""
    picture = np.arange(12.0) + number
    return Case(
        name=f"{op} picture {number}",
        op=op,
        baseline="torchvision",
        arms={"ours": lambda: picture, "torchvision": lambda: picture.copy()},
        levels={"ours-avx2": lambda: picture},
        compare=kernel_cases.compare_patches,
    )


def wrong_case(op: str, number: int) -> Case:
    case = small_case(op, number)
    return replace(case, arms=case.arms | {"ours": lambda: case.arms["torchvision"]() + 1.0})


@pytest.fixture
def use(monkeypatch):
    def chosen(*found: Case) -> None:
        monkeypatch.setattr(kernel_cases, "cases", lambda **_: iter(found))

    return chosen


def test_a_wrong_op_prints_no_speed_and_a_right_one_does(use, capsys):
    use(small_case("patchify", 0), wrong_case("patchify", 1), small_case("resize"))
    assert kernels.main(RUN) == 1
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {case["name"] for case in found["cases"]} == {"resize picture 0"}
    assert set(found["ratios"]) == {"resize picture 0"}
    assert "patchify: no times, its checks failed" in found["notes"]
    assert len(found["failed"]) == 1
    assert "patchify picture 1" in found["failed"][0]


def test_nothing_of_a_wrong_op_is_timed(use):
    calls = []

    def ours():
        calls.append("ours")
        return np.zeros(12)

    case = small_case("patchify", 1)
    use(replace(case, arms=case.arms | {"ours": ours}))
    options = parse_options("test", arms=("ours", "torchvision"), argv=["--runs", "5"])
    report = Report("kernels", options, ours="ours", baseline={})
    run_host_ops(("patchify",), options, report)
    assert calls == ["ours"]  # the comparison
    assert report.timings == []
    assert report.goals == []


def test_a_wrong_instruction_set_is_found_by_ablate(use, capsys):
    case = small_case("patchify")
    use(replace(case, levels={"ours-avx2": lambda: np.zeros(12)}))
    assert kernels.main([*RUN, "--ablate"]) == 1
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["cases"] == []
    assert "patchify picture 0 ours-avx2" in found["failed"][0]


def test_right_ops_are_timed_and_equal(use, capsys):
    use(small_case("patchify"), small_case("resize"))
    assert kernels.main(RUN) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(found["cases"]) == 4
    assert found["equal"]
