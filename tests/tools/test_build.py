"""The build command: real engines for a small model, one clear error for what cannot be."""

import json

import pytest
import torch
from typer.testing import CliRunner

from pixelis_fast.tools_trt.build import app
from pixelis_fast.tools_trt.build_models import MODELS, model_specs
from pixelis_fast.tools_trt.build_rows import VerifyError, build_rows, closest_check
from pixelis_fast.tools_trt.graphs.gates import Check, Gate, GateReport
from pixelis_fast.tools_trt.results import MissingWeightsError, ToolInputError
from tests.tools.engine_cases import columns_spec


def build(*arguments):
    return CliRunner().invoke(app, [str(part) for part in arguments])


def rows_of(spec, plan_dir, **options):
    asked = {"backend": "torch_cpu", "precision": "auto", "device": "cpu", "threads": 1}
    switches = {"all_buckets": False, "verify": False, "say": lambda text: None}
    return build_rows([spec], plan_dir=plan_dir, **asked | switches | options)


def test_the_command_builds_a_model(tmp_path):
    options = ("--backend", "torch_cpu", "--threads", "1", "--plan-dir", tmp_path / "plans")
    graph = ("--graph", "encoder", "--side", "64")
    arguments = ("--model", "micro", "--random-weights", *graph, *options)
    result = build(*arguments, "--verify", "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    assert "encoder" in result.output
    assert "torch_cpu" in result.output
    [row] = json.loads((tmp_path / "out.json").read_text())["engines"]
    assert row["engine"] == "sam2.1-micro@64/encoder"
    assert row["gate"]["passed"] is True
    assert row["p50_ms"] > 0
    [sidecar] = (tmp_path / "plans").glob("*/plan.json")
    assert json.loads(sidecar.read_text())["key"]["engine"] == "sam2.1-micro@64/encoder"


def test_plans_of_text_models_are_said_to_be_for_figures(tmp_path):
    """read_text opens its own sessions: nothing may promise that it finds these."""
    page = ("--graph", "eye", "--plan-dir", tmp_path)
    said = {model: build("--model", model, *page).output for model in ("pp-ocrv6", "micro")}
    assert "read_text uses none of them" in said["pp-ocrv6"].replace("\n", " ")
    assert "read_text" not in said["micro"]


def test_help_teaches():
    result = build("--help")
    assert result.exit_code == 0
    assert "--model sam2.1-large --weights" in result.output.replace("\n", " ").replace("  ", " ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens without TensorRT")
def test_without_tensorrt_it_says_what_to_install():
    result = build("--model", "sam2.1-tiny", "--backend", "tensorrt", "--verify")
    assert result.exit_code == 2
    assert "backend tensorrt: expected" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "sam3"), "model: expected one of"),
        (("--model", "sam2.1-tiny", "--weights", "nowhere.pt"), "got nothing at nowhere.pt"),
        (("--model", "craft", "--side", "64"), "expected no random weights and no side"),
        (("--model", "pp-ocrv6", "--weights", "x"), "expected no weights, they ship"),
        (("--model", "micro", "--random-weights", "--graph", "eye"), "graph: expected some of"),
        (("--model", "micro", "--random-weights", "--backend", "abacus"), "backend: expected"),
    ],
)
def test_bad_arguments_get_one_line(arguments, message):
    result = build(*arguments)
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ")


def test_every_bucket_has_its_row(tmp_path):
    rows = rows_of(columns_spec(), tmp_path, all_buckets=True)
    assert [row.bucket for row in rows] == ["B1-W16", "B1-W32", "B4-W32"]
    assert all(row.gate.passed for row in rows)
    json.dumps([row.to_json() for row in rows])


def test_verification_gates_the_plan_as_it_is(tmp_path, monkeypatch):
    """A gate that turns strict after the build shows that verifying measures again."""
    [row] = rows_of(columns_spec(), tmp_path, verify=True)
    assert row.gate.passed
    strict = Gate((Check("features", "max_abs", -1.0),))
    failing = strict.compare([{"features": torch.zeros(1)}], [{"features": torch.zeros(1)}])
    monkeypatch.setattr(Gate, "compare", lambda self, reference, candidate: failing)
    with pytest.raises(VerifyError, match="loaded again, features max_abs 0"):
        rows_of(columns_spec(), tmp_path, verify=True)


def test_notes_tell_what_failed(tmp_path):
    spec = columns_spec(gate=Gate((Check("features", "max_abs", 1e-5),)))
    [row] = rows_of(spec, tmp_path)
    assert row.notes[0] == "plan built"
    assert row.notes[1].startswith("bf16 failed: features max_abs")
    assert row.backend == "torch_cpu"


def test_closest_check():
    outputs = {"a": torch.tensor([[1.0, 2.0]])}
    checks = Gate((Check("a", "max_abs", 1.0), Check("a", "cosine", 0.5)))
    report = checks.compare([outputs], [{"a": torch.tensor([[1.0, 2.75]])}])
    assert closest_check(report) == "a max_abs 0.75"
    assert closest_check(GateReport((), 1)) == "all finite"


def test_models():
    assert {"sam2-tiny", "sam2.1-large", "micro", "craft", "crnn", "pp-ocrv6"} <= set(MODELS)
    specs = model_specs("micro", random_weights=True, side=64)
    graphs = {spec.name.rpartition("/")[2] for spec in specs}
    assert graphs == {"encoder", "decoder", "memory_encoder", "memory_attention"}
    with pytest.raises(ToolInputError, match="a path or random weights, got both"):
        model_specs("micro", random_weights=True, weights="x")
    with pytest.raises(MissingWeightsError):
        model_specs("sam2.1-tiny", weights="nowhere.pt")
