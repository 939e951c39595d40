"""bench/kernels.py as it is called: its words, its document, its profile."""

import json

import pytest
import torch

from bench import kernel_host, kernels, loss_cases, loss_ceilings, loss_profile, loss_run
from bench.harness import Report, parse_options
from bench.kernel_cases import cases
from bench.loss_probe import Probe
from bench.loss_report import goals
from bench.loss_truth import LIMITS, Errors

SMALL = ["--quick", "--runs", "2", "--shape", "24,64,333"]
TOP_KEYS = {"bench": str, "commit": str, "machine": dict, "cases": list, "ratios": dict}
TOP_KEYS |= {"equal": bool, "goals": list}
CASE_KEYS = {"name", "arm", "p20_ms", "p50_ms", "p80_ms", "n"}


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """A process per provider is tested elsewhere; a short copy tells as much here."""
    monkeypatch.setitem(loss_ceilings.COPY_BYTES, "cpu", 1 << 20)
    monkeypatch.setattr(loss_run, "probe", lambda *_, **__: Probe(1_000, 2_000))


def document(argv: list[str], capsys) -> dict:
    status = kernels.main(argv)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert status == 0, found["failed"]
    return found


@pytest.mark.parametrize("op", loss_cases.OPS)
def test_document_has_the_form_every_benchmark_shares(op, capsys):
    found = document(["--ops", op, *SMALL], capsys)
    for key, kind in TOP_KEYS.items():
        assert isinstance(found[key], kind), key
    assert all(case.keys() >= CASE_KEYS for case in found["cases"])
    assert {case["arm"] for case in found["cases"]} >= {"eager", "ours"}
    assert {case["op"] for case in found["cases"]} == {op}
    assert found["equal"]
    assert found["goals"] == []  # they hold at their own shapes
    assert set(found["ceilings"]["products_tflops"]) == {"bf16", "fp32"}
    assert all(set(found["baseline"].values()) == {"eager"} for _ in found["ratios"])


def test_modes_and_arms_are_what_was_asked(capsys):
    argv = ["--ops", "masked_imitation", "--modes", "full", "--arms", "eager,ours", *SMALL]
    found = document(argv, capsys)
    assert {case["mode"] for case in found["cases"]} == {"full"}
    assert {case["arm"] for case in found["cases"]} == {"eager", "ours"}


@pytest.mark.parametrize(
    "argv",
    [
        ["--ops", "nothing"],
        ["--ops", ""],
        ["--modes", "sideways"],
        ["--shape", "1,2"],
        ["--shape", "1,2,0"],
        ["--arms", "eager"],
        ["--profile", "resize"],
    ],
    ids=" ".join,
)
def test_bad_words_end_the_program(argv):
    with pytest.raises(SystemExit):
        kernels.main(argv)


def test_host_cases_are_those_asked_for():
    names = [case.op for case in cases(threads=1, quick=True, ops=("region",))]
    assert names == ["region_properties"]
    assert kernels.OPS == kernel_host.OPS + loss_cases.OPS


def test_goals_need_their_own_shape():
    options = parse_options("test", arms=("eager", "ours"), argv=[])
    assert list(goals([], Report("kernels", options, ours="ours", baseline={}))) == []


def test_profile_writes_a_trace_and_names_the_tools(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loss_profile, "ROOT", tmp_path)
    assert kernels.main(["--profile", "coherence", "--shape", "24,64,1"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    trace = json.loads((tmp_path / found["trace"]).read_text())
    assert any("coherence" in str(event.get("name")) for event in trace["traceEvents"])
    picture = (tmp_path / found["roofline"]).read_text()
    assert "ceilings, bf16" in picture
    assert "coherence bf16 ours" in picture
    assert set(found["achieved"]) == {"forward", "backward", "full"}
    assert all(rate["percent_of_copy"] > 0 for rate in found["achieved"].values())
    assert set(found["commands"]) == {"A100", "H100"}
    for lines in found["commands"].values():
        assert [line.split()[0] for line in lines] == ["ncu", "nsys"]
        assert all("--profile coherence" in line and "--bare" in line for line in lines)
    assert found["ran"] == [] or torch.cuda.is_available()


def test_a_wrong_op_gets_no_profile(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loss_profile, "ROOT", tmp_path)
    monkeypatch.setitem(LIMITS, ("coherence", "bf16"), Errors(0.0, 0.0))
    assert kernels.main(["--profile", "coherence", "--shape", "24,64,1"]) == 1
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "ours gradient error against float64" in " ".join(found["failed"])
    assert "achieved" not in found
    assert not list(tmp_path.rglob("*.*"))


def test_bare_profile_prints_nothing(capsys):
    assert kernels.main(["--profile", "coherence", "--shape", "24,64,1", "--bare"]) == 0
    assert capsys.readouterr().out == ""
