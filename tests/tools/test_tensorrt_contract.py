"""The TensorRT backend against the API of both generations, played by `fake_tensorrt`.

The GPU's streams and graphs are played by running at once; everything else is the real code, and
the numbers are those of the exported graph.
"""

import functools
import importlib
import json
import sys
import tempfile
import types
from pathlib import Path

import pytest
import torch

from pixelis_fast.tools_trt.backends import BackendMissingError, EngineBuildError
from pixelis_fast.tools_trt.backends.builder import PlanError
from pixelis_fast.tools_trt.backends.onnx_graphs import write_onnx
from pixelis_fast.tools_trt.backends.tensorrt_inspect import (
    check_precision,
    precision_histogram,
)
from pixelis_fast.tools_trt.graphs.precision import Precision
from tests.tools.engine_cases import columns, columns_spec

pytest.importorskip("onnx", reason="needs onnx: the `export` extra")
pytest.importorskip("onnxscript", reason="needs onnxscript: the `export` extra")
pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: the `ort` extra")

from tests.tools import fake_tensorrt

OURS = "pixelis_fast.tools_trt.backends.tensorrt"
BUCKET = {"B": 1, "W": 16}
GENERATIONS = (10, 11)


@functools.cache
def exported(rung):
    """The real export, once per precision."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        write_onnx(columns_spec().at(BUCKET), Precision(rung), path, probes=[])
        return path.read_bytes()


def write_once(graph, precision, path, *, probes):
    path.write_bytes(exported(precision.rung))


class RunAtOnce:
    """In place of a captured CUDA graph."""

    def __init__(self, buffers, enqueue, *, device):
        self.buffers, self.enqueue = buffers, enqueue

    def __call__(self, inputs):
        self.buffers.fill(inputs)
        self.enqueue(0)
        return self.buffers.outputs()


class OnHost:
    """A builder whose device is the host, where the fake's memory is."""

    def __init__(self, module):
        self.builder = type("HostBuilder", (module.TensorRtBuilder,), {"device": HOST})()

    def __call__(self):
        return self.builder


HOST = torch.device("cpu")
CARD = types.SimpleNamespace(major=9, minor=0)


def install(monkeypatch, generation, **options):
    """Our module on a fresh fake, and the fake's log."""
    fake, log = fake_tensorrt.make(generation, **options)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    monkeypatch.delitem(sys.modules, OURS, raising=False)
    ours = importlib.import_module(OURS)
    monkeypatch.setattr(ours, "CapturedRun", RunAtOnce)
    monkeypatch.setattr(ours, "write_onnx", write_once)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: CARD)
    return ours, log


@pytest.fixture(autouse=True)
def _forget_our_module():
    yield
    sys.modules.pop(OURS, None)


@pytest.fixture(params=GENERATIONS)
def trt(request, monkeypatch):
    return install(monkeypatch, request.param)


def build(ours, folder, rung="fp32", spec=None):
    graph = (spec or columns_spec()).at(BUCKET)
    builder = OnHost(ours)()
    builder.build(graph, Precision(rung), folder=folder, probes=[])
    return builder, graph


def plan_folder(tmp_path, name="plan"):
    folder = tmp_path / name
    folder.mkdir()
    return folder


@pytest.mark.parametrize(("rung", "tolerance"), [("fp32", 1e-5), ("fp16", 5e-3)])
def test_build_load_run(trt, tmp_path, rung, tolerance):
    ours, log = trt
    folder = plan_folder(tmp_path)
    builder, graph = build(ours, folder, rung)
    assert {path.name for path in folder.iterdir()} == {"engine.plan", "precision.json"}
    histogram = json.loads((folder / "precision.json").read_text())
    assert histogram[rung] > histogram.get("fp32", 0) * (rung == "fp16")
    session = builder.load(graph, Precision(rung), folder=folder, threads=1)
    assert session.name == f"tensorrt-{rung}"
    for probe in columns_spec().probes(BUCKET):
        outputs = session.run(probe)
        for output, expected in zip(outputs.values(), columns()(**probe), strict=True):
            assert (output - expected).abs().max() < tolerance
    assert log.contexts == 1
    assert log.workspace[1] == ours.WORKSPACE_BYTES
    assert [flag.name for flag in log.cleared] == ["TF32"]
    shape = (1, 3, 8, 16)
    assert log.profiles == [{"x": (shape,) * 3, "weight": ((1, 16),) * 3}]


def test_outputs_belong_to_the_caller(trt, tmp_path):
    ours, _ = trt
    folder = plan_folder(tmp_path)
    builder, graph = build(ours, folder)
    session = builder.load(graph, Precision("fp32"), folder=folder, threads=1)
    first, second = columns_spec().probes(BUCKET)
    one = session.run(first)["features"]
    before = one.clone()
    session.run(second)
    assert torch.equal(one, before)


def test_a_session_refuses_other_shapes(trt, tmp_path):
    ours, _ = trt
    folder = plan_folder(tmp_path)
    builder, graph = build(ours, folder)
    session = builder.load(graph, Precision("fp32"), folder=folder, threads=1)
    with pytest.raises(ValueError, match=r"x: expected \(1, 3, 8, 16\) torch.float32, got"):
        session.run({"x": torch.zeros(1, 3, 8, 1), "weight": torch.zeros(1, 16)})


@pytest.mark.parametrize("generation", GENERATIONS)
def test_an_engine_in_another_precision_is_refused(monkeypatch, tmp_path, generation):
    ours, _ = install(monkeypatch, generation, ignores_types=True)
    with pytest.raises(EngineBuildError, match=r"expected an engine in fp16, got \{'fp32':"):
        build(ours, plan_folder(tmp_path), "fp16")


def test_timing_caches_are_merged_and_kept_apart_by_version(trt, tmp_path):
    ours, log = trt
    build(ours, plan_folder(tmp_path, "one"))
    [cache] = tmp_path.glob("timing-*.cache")
    assert ours.tensorrt.__version__ in cache.name
    assert "sm_90" in cache.name
    cache.write_bytes(cache.read_bytes() + b",learned elsewhere")
    build(ours, plan_folder(tmp_path, "two"))
    assert log.caches[0] == set()
    assert b"learned elsewhere" in log.caches[1]
    assert b"learned elsewhere" in cache.read_bytes()


def test_a_timing_cache_of_another_device_is_replaced(trt, tmp_path):
    ours, log = trt
    build(ours, plan_folder(tmp_path, "one"))
    [cache] = tmp_path.glob("timing-*.cache")
    cache.write_bytes(b"another device;secret")
    build(ours, plan_folder(tmp_path, "two"))
    assert log.caches[1] == set()
    assert cache.read_bytes().startswith(fake_tensorrt.HEADER)


def test_what_cannot_be_built_is_an_error(trt, tmp_path):
    ours, _ = trt
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"\xff\xff")
    graph = columns_spec().at(BUCKET)
    with pytest.raises(EngineBuildError, match="parser refused the graph: not an ONNX graph"):
        ours.build_engine(bad, graph, timing=tmp_path / "t.cache")
    import onnx

    empty = onnx.helper.make_graph([], "unbuildable", [], [])
    onnx.save(onnx.helper.make_model(empty), bad)
    with pytest.raises(EngineBuildError, match="TensorRT built no engine"):
        ours.build_engine(bad, graph, timing=tmp_path / "t.cache")


def test_an_unreadable_plan_is_damaged(trt, tmp_path):
    ours, _ = trt
    folder = plan_folder(tmp_path)
    (folder / "engine.plan").write_bytes(b"garbage")
    with pytest.raises(PlanError, match="expected an engine, got unreadable data"):
        OnHost(ours)().load(columns_spec().at(BUCKET), Precision("fp32"), folder=folder, threads=1)


def test_another_graphs_plan_is_refused(trt, tmp_path):
    ours, _ = trt
    folder = plan_folder(tmp_path)
    builder, _ = build(ours, folder)
    renamed = columns_spec(
        inputs=tuple(
            type(t)(t.name.replace("x", "y"), t.dtype, t.shape) for t in columns_spec().inputs
        )
    ).at(BUCKET)
    with pytest.raises(PlanError, match="expected the tensors"):
        builder.load(renamed, Precision("fp32"), folder=folder, threads=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens without a GPU")
def test_without_a_device_it_says_so(trt):
    assert trt[0].BUILDER.why_not() == "expected a CUDA device, got none"


def test_an_old_version_is_refused(trt, monkeypatch):
    ours, _ = trt
    monkeypatch.setattr(ours.tensorrt, "__version__", "8.6.1")
    assert ours.BUILDER.why_not() == "expected TensorRT 10 or newer, got 8.6.1"


def test_generation_10_without_strong_types_is_refused(monkeypatch):
    ours, _ = install(monkeypatch, 10)
    monkeypatch.delattr(ours.tensorrt, "NetworkDefinitionCreationFlag")
    with pytest.raises(EngineBuildError, match="expected strongly typed networks"):
        ours.network_flags()


def test_the_version_is_in_the_plans_key(trt):
    ours, _ = trt
    assert ours.BUILDER.versions()["tensorrt"] == ours.tensorrt.__version__


def test_type_stubs_alone_are_no_tensorrt(monkeypatch):
    from pixelis_fast.tools_trt.backends import builder

    monkeypatch.setitem(sys.modules, "tensorrt", types.ModuleType("tensorrt"))
    monkeypatch.delitem(sys.modules, OURS, raising=False)
    with pytest.raises(BackendMissingError, match=r"installed for its types only.*\[gpu\]"):
        builder("tensorrt")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Row major linear FP16 format", "fp16"),
        ("Half", "fp16"),
        ("BFloat16", "bf16"),
        ("BF16", "bf16"),
        ("Float", "fp32"),
        ("Two wide channel vectorized row major FP32 format", "fp32"),
        ("Int8", "int8"),
    ],
)
def test_inspector_words(text, kind):
    document = {"Layers": [{"Outputs": [{"Name": "a", "Format/Datatype": text}]}]}
    assert precision_histogram(json.dumps(document)) == {kind: 1}


@pytest.mark.parametrize(
    ("histogram", "rung", "passes"),
    [
        ({"fp16": 9, "fp32": 3}, "fp16", True),
        ({"fp16": 2, "fp32": 9}, "fp16", False),
        ({"bf16": 9, "fp32": 3}, "fp16", False),
        ({"fp32": 9}, "fp32", True),
        ({"fp32": 9, "fp16": 1}, "fp32", False),
    ],
)
def test_check_precision(histogram, rung, passes):
    if passes:
        check_precision(histogram, rung)
        return
    with pytest.raises(EngineBuildError, match=f"expected an engine in {rung}"):
        check_precision(histogram, rung)


def test_an_inspector_without_types_is_an_error():
    with pytest.raises(EngineBuildError, match="detailed profiling verbosity"):
        precision_histogram(json.dumps({"Layers": ["conv1", "conv2"]}))
