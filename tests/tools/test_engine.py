"""Engines on real backends: gates decide, buckets hold, choices are measured and remembered."""

import json
from dataclasses import replace

import pytest
import torch

from pixelis_fast.tools_trt import backends
from pixelis_fast.tools_trt.backends import BackendMissingError, EngineBuildError, builder
from pixelis_fast.tools_trt.backends.builder import PlanError
from pixelis_fast.tools_trt.engines import choice as engine_choice
from pixelis_fast.tools_trt.engines import gated_build
from pixelis_fast.tools_trt.engines.engine import open_engine
from pixelis_fast.tools_trt.graphs.gates import Check, Gate, embedding_checks, score_checks
from pixelis_fast.tools_trt.graphs.spec import EngineSpec, TensorSpec
from pixelis_fast.tools_trt.ocr.weights import ANGLE, text_weights
from tests.tools.engine_cases import columns, columns_spec

TOLERANCE = {"fp32": 1e-5, "bf16": 5e-2}
INPUT = "x"


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    """One folder for the tests that do not ask what is built when."""
    return tmp_path_factory.mktemp("plans")


def inputs(batch, width, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(batch, 3, 8, width, generator=generator),
        "weight": torch.rand(batch, width, generator=generator),
    }


def only(monkeypatch, *names):
    """Leaves these backends alone to choose from."""
    kept = {name: backends.BACKENDS[name] for name in names}
    monkeypatch.setattr(backends, "BACKENDS", kept)


def check_outputs(engine, batch, width, *, tolerance):
    given = inputs(batch, width)
    outputs = engine.run(given)
    for output, expected in zip(outputs.values(), columns()(**given), strict=True):
        assert output.shape == expected.shape
        assert (output - expected).abs().max() < tolerance


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("backend", ["openvino", "torch_cpu", "ort"])
def test_backends_compute_the_module(plans, backend, precision):
    if backend == "ort" and precision == "bf16":
        with pytest.raises(EngineBuildError, match="ort: expected fp32 or int8, got bf16"):
            open_engine(columns_spec(), backend=backend, precision=precision, plan_dir=plans)
        return
    engine = open_engine(
        columns_spec(), backend=backend, precision=precision, threads=1, plan_dir=plans
    )
    check_outputs(engine, 1, 16, tolerance=TOLERANCE[precision])
    assert engine.name == backend if precision == "fp32" else f"{backend}-bf16"
    assert engine.report.precision == precision


def test_inputs_between_buckets_are_filled_and_cut(plans):
    engine = open_engine(columns_spec(), backend="torch_cpu", precision="fp32", plan_dir=plans)
    for batch, width in ((1, 16), (1, 20), (3, 7)):
        check_outputs(engine, batch, width, tolerance=1e-5)
    assert engine.use.calls == {"B1-W16": 1, "B1-W32": 1, "B4-W32": 1}
    assert set(engine.precisions()) == {"B1-W16", "B1-W32", "B4-W32"}
    values = [25 * batch * width for batch, width in ((1, 16), (1, 20), (3, 7))]
    whole = [25 * batch * width for batch, width in ((1, 16), (1, 32), (4, 32))]
    assert engine.use.waste == pytest.approx(1 - sum(values) / sum(whole))


def test_bad_inputs_are_refused(plans):
    engine = open_engine(columns_spec(), backend="torch_cpu", precision="fp32", plan_dir=plans)
    with pytest.raises(ValueError, match=r"within a bucket of .*'W': 32.*, got .*'W': 33"):
        engine.run(inputs(1, 33))
    with pytest.raises(ValueError, match="expected the inputs x, weight, got x"):
        engine.run({"x": inputs(1, 8)["x"]})
    with pytest.raises(ValueError, match="expected 8 for W of weight, got 9"):
        engine.run({"x": inputs(1, 8)["x"], "weight": inputs(1, 9)["weight"]})
    with pytest.raises(ValueError, match=r"expected x as torch.float32 .* got torch.float64"):
        engine.run({name: tensor.double() for name, tensor in inputs(1, 8).items()})


def test_an_exact_axis_is_never_filled(plans):
    spec = columns_spec(exact_axes=frozenset({"W"}))
    engine = open_engine(spec, backend="torch_cpu", precision="fp32", plan_dir=plans)
    check_outputs(engine, 3, 32, tolerance=1e-5)
    with pytest.raises(ValueError, match=r"with \['W'\] exact, got"):
        engine.run(inputs(1, 20))


def test_a_failing_rung_is_recorded_and_the_next_serves(tmp_path):
    spec = columns_spec(gate=Gate((Check("features", "max_abs", 1e-5),)))
    engine = open_engine(spec, backend="torch_cpu", plan_dir=tmp_path)
    [candidate] = engine.report.candidates
    [rejected] = candidate.rejected
    assert rejected.precision == "bf16"
    assert rejected.reason.startswith("features max_abs 0.0")
    assert (engine.report.precision, engine.name) == ("fp32", "torch_cpu")
    again = open_engine(spec, backend="torch_cpu", plan_dir=tmp_path)
    assert again.report.candidates[0].rejected == candidate.rejected


def test_nothing_passing_is_an_error(tmp_path, monkeypatch):
    spec = columns_spec(gate=Gate((Check("features", "max_abs", -1.0),)))
    with pytest.raises(EngineBuildError, match=r"no precision passed: bf16: .*; fp32: features"):
        open_engine(spec, backend="torch_cpu", plan_dir=tmp_path)
    only(monkeypatch, "torch_cpu")
    with pytest.raises(EngineBuildError, match=r"expected a backend that passes: torch_cpu out"):
        open_engine(spec, plan_dir=tmp_path)


def test_a_precision_asked_for_is_not_replaced(tmp_path):
    spec = columns_spec(gate=Gate((Check("features", "max_abs", 1e-5),)))
    with pytest.raises(EngineBuildError, match="no precision passed: bf16: features max_abs"):
        open_engine(spec, backend="torch_cpu", precision="bf16", plan_dir=tmp_path)


def test_auto_measures_every_backend_and_remembers(plans, monkeypatch):
    engine = open_engine(columns_spec(), threads=1, plan_dir=plans)
    timed = {c.backend: c.p50_ms for c in engine.report.candidates if c.p50_ms is not None}
    assert set(timed) == {"openvino", "ort", "torch_cpu"}
    assert engine.name.startswith(min(timed, key=timed.get))
    assert all(f"{name} " in engine.reason for name in timed)
    json.dumps(engine.report.to_json())
    monkeypatch.setattr(engine_choice, "_seconds", lambda *_: pytest.fail("measured again"))
    again = open_engine(columns_spec(), threads=1, plan_dir=plans)
    assert again.report.reason == engine.report.reason
    assert again.report.backend == engine.report.backend


def torn(memory):
    memory.write_text(memory.read_text()[:40])


def not_timings(memory):
    memory.write_text("{}")


def other_fields(memory):
    memory.write_text('[{"backend": "torch_cpu", "gate": null, "rejected": [], "speed": 1}]')


def of_another_backend(memory):
    memory.write_text(memory.read_text().replace('"torch_cpu"', '"abacus"'))


def untimed(memory):
    entries = json.loads(memory.read_text())
    memory.write_text(json.dumps([entry | {"p50_ms": None} for entry in entries]))


def writable_by_others(memory):
    memory.chmod(0o666)


DAMAGES = [torn, not_timings, other_fields, of_another_backend, untimed, writable_by_others]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_timings_are_set_aside_and_measured_again(tmp_path, monkeypatch, caplog, damage):
    only(monkeypatch, "torch_cpu")
    options = {"precision": "fp32", "threads": 1, "plan_dir": tmp_path}
    open_engine(columns_spec(), **options)
    [memory] = tmp_path.glob("choice-*.json")
    damage(memory)
    engine = open_engine(columns_spec(), **options)
    check_outputs(engine, 1, 16, tolerance=1e-5)
    assert memory.with_suffix(".bad").is_file()
    assert f"{memory.stem}.bad: " in caplog.text
    [entry] = json.loads(memory.read_text())
    assert entry["backend"] == "torch_cpu"
    assert entry["p50_ms"] > 0
    # Again, so that the file set aside before is replaced; and a sound one stays.
    damage(memory)
    open_engine(columns_spec(), **options)
    monkeypatch.setattr(engine_choice, "_seconds", lambda *_: pytest.fail("measured again"))
    open_engine(columns_spec(), **options)


@pytest.mark.parametrize("fastest", ["openvino", "ort", "torch_cpu"])
def test_the_fastest_serves(plans, monkeypatch, fastest):
    monkeypatch.setattr(
        engine_choice,
        "_seconds",
        lambda session, probe: 1.0 if session.name.startswith(fastest) else 2.0,
    )
    engine = open_engine(columns_spec(), threads=1, plan_dir=plans, measure_again=True)
    assert engine.name.startswith(fastest)


def test_a_bf16_that_fails_leaves_the_choice_to_the_others(tmp_path, monkeypatch):
    """The candidate that cannot pass is out, with its figures, and is not timed."""
    gate = Gate((Check("features", "max_abs", 1e-5),))
    only(monkeypatch, "openvino", "torch_cpu")
    monkeypatch.setattr(type(builder("openvino")), "rungs", lambda self, graph: ("bf16",))
    engine = open_engine(columns_spec(gate=gate), threads=1, plan_dir=tmp_path)
    out = {c.backend: c.why_not for c in engine.report.candidates if c.p50_ms is None}
    assert "openvino: no precision passed: bf16: features max_abs" in out["openvino"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens without a GPU")
@pytest.mark.parametrize("backend", ["torch_graph", "ort-cuda", "tensorrt"])
def test_a_named_backend_that_is_missing_is_an_error(tmp_path, backend):
    with pytest.raises(BackendMissingError, match=f"backend {backend}: expected"):
        open_engine(columns_spec(), backend=backend, device="cuda", plan_dir=tmp_path)


def test_bad_arguments_are_refused(tmp_path):
    spec = columns_spec()
    with pytest.raises(ValueError, match="device: expected cpu or cuda, got 'tpu'"):
        open_engine(spec, device="tpu", plan_dir=tmp_path)
    with pytest.raises(ValueError, match=r"backend: expected auto, .*, got 'onnx'"):
        open_engine(spec, backend="onnx", plan_dir=tmp_path)
    with pytest.raises(ValueError, match="expected device='cpu', got 'cuda'"):
        open_engine(spec, backend="openvino", device="cuda", plan_dir=tmp_path)
    with pytest.raises(ValueError, match="precision: expected one of"):
        open_engine(spec, backend="openvino", precision="half", plan_dir=tmp_path)
    with pytest.raises(ValueError, match="bucket: expected one of"):
        open_engine(spec, bucket={"B": 2, "W": 2}, plan_dir=tmp_path)
    with pytest.raises(ValueError, match="threads: expected at least 1"):
        open_engine(spec, threads=0, plan_dir=tmp_path)
    with pytest.raises(BackendMissingError, match=r"threads=1, the process's number, got 7"):
        open_engine(spec, backend="torch_cpu", threads=7, plan_dir=tmp_path)


def test_a_truncated_plan_is_set_aside_and_rebuilt(plans):
    options = {"backend": "openvino", "precision": "fp32", "threads": 1, "plan_dir": plans}
    bucket = columns_spec().buckets[0]
    weights = open_engine(columns_spec(), **options).opened(bucket).plan.folder / "model.bin"
    weights.write_bytes(weights.read_bytes()[:100])
    engine = open_engine(columns_spec(), **options)
    assert engine.opened(bucket).plan.found.startswith("rebuilt, the plan before was set aside")
    assert weights.parent.with_suffix(".bad").is_dir()
    check_outputs(engine, 1, 16, tolerance=1e-5)


def test_the_self_test_refuses_another_engines_answers(tmp_path, monkeypatch):
    """Right files, wrong outputs: the samples taken when the plan was built tell."""
    open_engine(columns_spec(), backend="torch_cpu", precision="fp32", plan_dir=tmp_path)
    other = columns(seed=5)
    monkeypatch.setattr(gated_build, "plan_key", fixed_key(tmp_path))
    engine = open_engine(
        columns_spec(other), backend="torch_cpu", precision="fp32", plan_dir=tmp_path
    )
    assert "self-test expected" in engine.opened(columns_spec().buckets[0]).plan.found


def fixed_key(folder):
    [sidecar] = folder.glob("*/plan.json")
    key = json.loads(sidecar.read_text())["key"]
    return lambda *_, **__: key


def test_self_test_tolerance(tmp_path):
    engine = open_engine(columns_spec(), backend="torch_cpu", precision="fp32", plan_dir=tmp_path)
    session = engine.opened(columns_spec().buckets[0]).session
    [samples] = tmp_path.glob(f"*/{gated_build.SAMPLES_FILE}")
    probe = columns_spec().probes(columns_spec().buckets[0])[0]
    gated_build.self_test(session, probe, samples)
    with pytest.raises(PlanError, match="self-test expected features within"):
        gated_build.self_test(session, inputs(1, 16, seed=9), samples)


def test_int8_runs_behind_the_same_gate(tmp_path):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: the `ort` extra")
    spec = columns_spec(gate=Gate(embedding_checks("features")))
    engine = open_engine(
        replace(spec, gate=Gate((Check("features", "cosine", 0.98),))),
        backend="ort",
        precision="int8",
        plan_dir=tmp_path,
    )
    assert engine.name == "ort-int8"
    given = inputs(1, 16)
    moved = (engine.run(given)["features"] - columns()(**given)[0]).abs().max()
    assert 1e-4 < moved < 0.5
    with pytest.raises(EngineBuildError, match="int8: features cosine"):
        open_engine(
            replace(spec, gate=Gate((Check("features", "cosine", 1.0),))),
            backend="ort",
            precision="int8",
            plan_dir=tmp_path,
        )


def angle_spec():
    generator = torch.Generator().manual_seed(0)
    return EngineSpec(
        "pp-ocrv6/angle",
        inputs=(TensorSpec(INPUT, torch.float32, ("B", 3, 48, 192)),),
        outputs=(TensorSpec("save_infer_model/scale_0.tmp_1", torch.float32, ("B", 2)),),
        buckets=({"B": 2},),
        weights_id="0" * 64,
        probes=lambda bucket: [
            {INPUT: torch.rand(bucket["B"], 3, 48, 192, generator=generator.manual_seed(0))}
        ],
        gate=Gate(score_checks("save_infer_model/scale_0.tmp_1")),
        onnx_path=text_weights(ANGLE),
    )


@pytest.mark.parametrize("backend", ["openvino", "ort"])
def test_a_shipped_onnx_file(plans, backend):
    engine = open_engine(angle_spec(), backend=backend, plan_dir=plans, threads=1)
    lines = torch.rand(1, 3, 48, 192)
    [scores] = engine.run({INPUT: lines}).values()
    assert scores.shape == (1, 2)
    assert scores.sum() == pytest.approx(1, abs=1e-3)


def test_torch_backends_run_no_onnx_files(plans):
    with pytest.raises(EngineBuildError, match=r"torch_cpu runs no ONNX files"):
        open_engine(angle_spec(), backend="torch_cpu", plan_dir=plans)


def test_bad_specs_are_refused():
    with pytest.raises(ValueError, match="expected build or onnx_path, got both or neither"):
        columns_spec(build=None)
    with pytest.raises(ValueError, match="expected at least one bucket"):
        columns_spec(buckets=())
    with pytest.raises(ValueError, match="expected buckets over"):
        columns_spec(buckets=({"B": 1},))
    with pytest.raises(ValueError, match="expected an output of features, score, got masks"):
        columns_spec(gate=Gate(embedding_checks("masks")))
    with pytest.raises(ValueError, match="expected score's axes in inputs"):
        columns_spec(outputs=(TensorSpec("score", torch.float32, ("Q",)),), gate=Gate(()))
    with pytest.raises(ValueError, match="expected a multiple of 3 for W, got 16"):
        columns_spec(outputs=(TensorSpec("score", torch.float32, ("W/3",)),), gate=Gate(()))
    with pytest.raises(ValueError, match="expected exact_axes of inputs"):
        columns_spec(exact_axes=frozenset({"Q"}))


@pytest.mark.parametrize(
    ("axis", "size"), [(5, 5), ("W", 64), ("W/4", 16), ("W*2", 128), ("W/4-1", 15), ("W+3", 67)]
)
def test_derived_axes(axis, size):
    assert TensorSpec("x", torch.float32, (axis,)).sizes({"W": 64}) == (size,)


def test_engines_serve_as_sessions(plans):
    engine = open_engine(columns_spec(), backend="torch_cpu", precision="fp32", plan_dir=plans)
    assert engine.device == torch.device("cpu")
    assert engine.input_names == ("x", "weight")
    assert engine.metadata == {}
    engine.warm()
    assert len(engine.precisions()) == 3


def test_verify_gates_what_lies_on_disk(plans):
    engine = open_engine(columns_spec(), backend="torch_cpu", precision="fp32", plan_dir=plans)
    assert engine.verify(columns_spec().buckets[0]).passed


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_torch_graph(tmp_path, precision):
    engine = open_engine(
        columns_spec(), backend="torch_graph", precision=precision, device="cuda", plan_dir=tmp_path
    )
    tolerance = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 5e-3}[precision]
    for batch, width in ((1, 16), (3, 20), (1, 16)):
        given = inputs(batch, width, seed=batch)
        outputs = engine.run({name: tensor.cuda() for name, tensor in given.items()})
        for output, expected in zip(outputs.values(), columns()(**given), strict=True):
            assert (output.cpu() - expected).abs().max() < tolerance
    first = engine.run({name: tensor.cuda() for name, tensor in inputs(1, 16).items()})
    before = first["features"].clone()
    engine.run({name: tensor.cuda() for name, tensor in inputs(1, 16, seed=8).items()})
    assert torch.equal(first["features"], before)
