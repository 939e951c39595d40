"""bench/compile.py: what it builds, what it says of it, and that a violation is its exit status."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.compile import main, report_of
from bench.compile_cases import Job, Outcome, case_modules, cases_of, jobs, reason
from bench.compile_report import entry, outcome_table, summary_table, write_compile_results
from bench.harness import parse_options
from pixelis_fast.kernels.offline import Compiled

ROOT = Path(__file__).resolve().parents[2]
SOUND, FIXTURES = "tests.kernels.offline_fixtures", "tests.bench.compile_fixtures"
COMPILED = Compiled(
    registers=154,
    stack_bytes=0,
    shared_bytes=98_304,
    tensor_columns=0,
    threads=128,
    instructions={"HGMMA": 8, "UTMALDG": 6, "UTMASTG": 1},
    warnings=(),
    cubin_bytes=34_000,
    seconds=0.25,
)
DONE = [
    Outcome(Job("kernels.op.compile_cases", "matmul, 3 stages", 90), "matmul", COMPILED, ()),
    Outcome(
        Job("kernels.op.compile_cases", "matmul, 4 stages", 90),
        "matmul",
        replace(COMPILED, shared_bytes=262_144),
        ("needs 262144 bytes of shared memory, 232448 are there",),
    ),
    Outcome(
        Job("kernels.op.compile_cases", "sums", 80),
        "sums",
        None,
        ("does not compile: PassManager::run failed",),
    ),
]


def options(*argv: str):
    def add(parser):
        parser.add_argument("--jobs", type=int, default=1)

    return parse_options("test", arms=("sm_80", "sm_90"), add=add, argv=argv)


def gate(*argv: str) -> tuple[int, dict, str]:
    surroundings = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "bench/compile.py", "--jobs", "1", *argv]
    done = subprocess.run(command, env=surroundings, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_the_gate_passes_sound_kernels_and_fails_the_others():
    status, document, shown = gate("--modules", FIXTURES, "--targets", "90")
    assert status == 1
    assert not document["equal"]
    odd, claim = document["failed"]
    assert odd.startswith("bench: odd sm_90: violations = does not compile: ")
    assert "power of 2" in odd
    assert "claims too much sm_90: violations = claims hgmma, yet has no HGMMA" in claim
    assert "UNSOUND bench: odd sm_90: does not compile" in shown
    [goal] = document["goals"]
    assert (goal["target"], goal["value"], goal["met"]) == (3, 1, False)
    unsound, sound = document["cases"]
    assert (unsound["name"], sound["name"], sound["arm"]) == (
        "bench: claims too much",
        "bench: row sums",
        "sm_90",
    )
    assert sound["p50_ms"] > 0
    assert 0 < sound["registers"] < 64


def test_jobs_are_cases_times_targets():
    chosen = jobs([SOUND], capabilities=(80, 90), only="", quick=False)
    assert [(job.case, job.target) for job in chosen] == [
        ("matmul 128x128x64", "sm_90"),
        ("matmul 128x128x64, 2 stages", "sm_90"),
        ("row sums", "sm_80"),
        ("row sums", "sm_90"),
    ]
    assert [job.case for job in jobs([SOUND], capabilities=(90,), only="2 st", quick=False)] == [
        "matmul 128x128x64, 2 stages"
    ]


def test_quick_takes_one_case_of_each_kernel():
    chosen = jobs([SOUND], capabilities=(90,), only="", quick=True)
    assert [job.case for job in chosen] == ["matmul 128x128x64", "row sums"]


def test_every_compile_cases_module_is_found_and_named_apart():
    modules = case_modules()
    assert modules == sorted(modules)
    files = {path.relative_to(ROOT) for path in (ROOT / "kernels").rglob("*compile_cases.py")}
    assert {Path(*name.split(".")[1:]).with_suffix(".py") for name in modules} == files
    for module in modules:
        for name, case in cases_of(module).items():
            assert case.name == name
            assert sorted([*case.signature, *case.constants]) == sorted(case.kernel.arg_names)


def test_a_name_used_twice_is_an_error(monkeypatch):
    module = sys.modules.setdefault(SOUND, __import__(SOUND, fromlist=["cases"]))
    twice = [module.sums_case(), module.sums_case()]
    monkeypatch.setattr(module, "cases", lambda: twice)
    with pytest.raises(ValueError, match="expected distinct case names, got 'row sums' twice"):
        cases_of.__wrapped__(SOUND)


def test_one_unsound_case_makes_the_report_unequal():
    report = report_of(DONE, options())
    assert not report.equal
    assert [check.case for check in report.failed] == [
        "op: matmul, 4 stages sm_90",
        "op: sums sm_80",
    ]
    assert [(goal.target, goal.value, goal.met) for goal in report.goals] == [(3, 1, False)]
    assert report_of(DONE[:1], options()).equal
    assert [timing.arm for timing in report.timings] == ["sm_90", "sm_90"]


def test_tables_show_the_worst_configuration():
    assert outcome_table(DONE).row_count == 3
    [matmul, sums] = summary_table(DONE)["rows"]
    assert matmul == [
        "matmul",
        "sm_90",
        "154",
        "0",
        "256",
        "8 HGMMA",
        "6 in, 1 out",
        "0.2",
        "1 of 2",
    ]
    assert sums[:2] == ["sums", "sm_80"]
    assert sums[-1] == "0 of 1"


def test_recording_replaces_its_own_entry_only(tmp_path):
    document = report_of(DONE, options()).document()
    (tmp_path / "RESULTS.md").write_text("# Results\n\n## some machine\n\n### other\n\nkept\n")
    for _ in range(2):
        page = write_compile_results(document, folder=tmp_path).read_text()
    assert page.count("## compile\n") == 1
    assert page.count("### ") == 2
    assert "kept" in page
    assert entry(document) in page
    [written] = (tmp_path / "results" / "compile").iterdir()
    assert json.loads(written.read_text())["failed"] == document["failed"]


def test_the_reason_is_one_line_of_what_the_compiler_said():
    log = "x.py:3:1: error: 'tt.dot' op is wrong\nmodule {\n  many lines\n"
    assert reason(RuntimeError("PassManager::run failed"), log) == (
        "PassManager::run failed: 'tt.dot' op is wrong"
    )
    assert reason(RuntimeError(), "") == "RuntimeError"


@pytest.mark.parametrize(
    "argv",
    [["--ablate"], ["--runs", "3"], ["--threads", "2"], ["--jobs", "0"], ["--only", "no such"], []],
    ids=" ".join,
)
def test_options_that_would_do_nothing_are_refused(argv):
    with pytest.raises(SystemExit, match="expected"):
        main(["--modules", SOUND, *argv])
