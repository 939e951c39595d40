"""Backends: equal answers, honest choice, and clear errors for what is missing."""

import importlib
import os
import shutil
import subprocess
import sys
import threading
from ctypes.util import find_library
from pathlib import Path

import numpy as np
import pytest
import torch

from pixelis_fast.tools_trt import backends
from pixelis_fast.tools_trt.backends import (
    BACKENDS,
    Backend,
    BackendMissingError,
    builder,
    gpu_libraries,
    open_session,
    probe_backends,
)
from pixelis_fast.tools_trt.backends.builder import PlanError
from pixelis_fast.tools_trt.backends.torch_cpu import TorchSession
from pixelis_fast.tools_trt.backends.torch_graph import GraphSession
from pixelis_fast.tools_trt.graphs.precision import Precision, at_precision
from pixelis_fast.tools_trt.ocr.weights import ANGLE, DETECTOR, RECOGNIZER, text_weights
from pixelis_fast.tools_trt.results import MissingWeightsError, ToolError
from tests.tools.engine_cases import columns, columns_spec, probes

onnxruntime = pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: the `ort` extra")
from pixelis_fast.tools_trt.backends.ort import (  # noqa: E402
    CPU_BUILDER,
    CUDA,
    CUDA_BUILDER,
    TENSORRT,
    TENSORRT_BUILDER,
    OrtSession,
    check_provider,
    provider_options,
)

TOLERANCE = 2e-4
"""Largest difference between backends: fp32, different summation order."""
ONNX_READERS = ("openvino", "ort")
GPU_ONLY = ("tensorrt", "ort-tensorrt", "torch_graph", "ort-cuda")
SHAPES = {DETECTOR: (1, 3, 160, 224), RECOGNIZER: (2, 3, 48, 160), ANGLE: (2, 3, 48, 192)}


def noise(shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def run(session, pixels):
    return next(iter(session.run({"x": pixels}).values()))


@pytest.mark.parametrize("graph", SHAPES)
def test_backends_agree(graph):
    pixels = noise(SHAPES[graph])
    sessions = [open_session(text_weights(graph), backend=name) for name in ONNX_READERS]
    first, *others = (run(session, pixels) for session in sessions)
    for session, output in zip(sessions[1:], others, strict=True):
        assert output.dtype == torch.float32
        assert (output - first).abs().max() < TOLERANCE, session.name
        assert session.metadata == sessions[0].metadata
        assert session.input_names == sessions[0].input_names


@pytest.mark.parametrize("name", ONNX_READERS)
def test_outputs_belong_to_the_caller(name):
    session = open_session(text_weights(ANGLE), backend=name)
    one = run(session, noise(SHAPES[ANGLE]))
    before = one.clone()
    run(session, noise(SHAPES[ANGLE], seed=1))
    assert torch.equal(one, before)


@pytest.mark.parametrize("name", ONNX_READERS)
def test_threads_get_their_own_answers(name):
    session = open_session(text_weights(ANGLE), backend=name)
    inputs = [noise(SHAPES[ANGLE], seed) for seed in range(4)]
    expected = [run(session, x) for x in inputs]
    wrong = []

    def work(n):
        for _ in range(5):
            if not torch.equal(run(session, inputs[n]), expected[n]):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_auto_measures_all_and_says_so():
    inputs = {"x": noise(SHAPES[ANGLE])}
    session = open_session(text_weights(ANGLE), backend="auto", warmup_inputs=inputs)
    assert session.name in ONNX_READERS
    assert all(name in session.reason for name in ONNX_READERS)
    assert "ms" in session.reason


def test_auto_keeps_the_fastest(monkeypatch):
    slow = {"openvino": 2.0, "ort": 1.0}
    monkeypatch.setattr(backends, "p50_ms", lambda session, inputs: slow[session.name])
    session = open_session(text_weights(ANGLE), backend="auto", warmup_inputs={})
    assert session.name == "ort"


def test_auto_needs_something_to_measure_on():
    with pytest.raises(ValueError, match="warmup_inputs: expected"):
        open_session(text_weights(ANGLE), backend="auto")


def test_probe_backends():
    found = {status.name: status for status in probe_backends()}
    assert list(found) == list(BACKENDS)
    for name in (*ONNX_READERS, "torch_cpu"):
        assert found[name].available
        assert found[name].version


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens without a GPU")
@pytest.mark.parametrize("name", GPU_ONLY)
def test_without_a_gpu_each_gpu_backend_says_why_not(name):
    [status] = [status for status in probe_backends() if status.name == name]
    assert not status.available
    with pytest.raises(BackendMissingError, match=f"backend {name}: expected"):
        builder(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens without a GPU")
def test_a_cuda_graph_without_a_device_is_refused():
    with pytest.raises(BackendMissingError, match="expected a CUDA device, got none"):
        GraphSession(columns(), columns_spec().at({"B": 1, "W": 16}), name="torch_graph")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a provider that cannot load")
@pytest.mark.parametrize("provider", [CUDA, TENSORRT])
def test_ort_never_carries_on_with_another_provider(provider):
    """The package offers the provider, its libraries are not here: a CPU session comes back."""
    if provider not in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime has no {provider}")
    session = onnxruntime.InferenceSession(
        str(text_weights(ANGLE)), providers=[provider, "CPUExecutionProvider"]
    )
    with pytest.raises(BackendMissingError, match=rf"expected {provider}, got CPU"):
        check_provider(session, provider)


def installed(folder, name, version):
    """An installed distribution, as importlib finds it."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return info


@pytest.mark.parametrize("package", ["tensorrt_cu12_libs", "nvidia-cudnn-cu99"])
def test_ort_names_the_libraries_its_gpu_providers_load(tmp_path, monkeypatch, package):
    monkeypatch.syspath_prepend(tmp_path)
    name = package.replace("_", "-")
    info = installed(tmp_path, package, "10.9.0")
    for each in (CUDA_BUILDER, TENSORRT_BUILDER):
        assert each.versions()[name] == "10.9.0"
    assert name not in CPU_BUILDER.versions()
    shutil.rmtree(info)
    installed(tmp_path, package, "10.9.1")
    importlib.invalidate_caches()
    assert TENSORRT_BUILDER.versions()[name] == "10.9.1"


def test_a_library_of_the_system_tells_its_version():
    """libc stands for the ones that are not here: a function without arguments gives a number."""
    path = find_library("c")
    assert path is not None
    assert gpu_libraries.library_version(path, "getpid") == str(os.getpid())
    assert set(gpu_libraries.system_versions()) <= {"system nvinfer", "system cudnn"}


def test_a_graph_that_loads_and_does_not_run_is_a_named_error(tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs onnx: the `export` extra")
    value = onnx.helper.make_tensor_value_info
    three = value("x", onnx.TensorProto.FLOAT, [3])
    one = value("y", onnx.TensorProto.FLOAT, [1])
    ninth = onnx.numpy_helper.from_array(np.array([9]), "ninth")
    gather = onnx.helper.make_node("Gather", ["x", "ninth"], ["y"])
    graph = onnx.helper.make_graph([gather], "beyond", [three], [one], [ninth])
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    onnx.save(model, tmp_path / "beyond.onnx")
    session = OrtSession(tmp_path / "beyond.onnx", threads=1)
    with pytest.raises(PlanError, match=r"ort: ONNX Runtime cannot run it: .*out of data"):
        session.run({"x": torch.zeros(3)})


def test_ort_does_not_search_convolutions_exhaustively():
    assert provider_options(CUDA, Path())["cudnn_conv_algo_search"] != "EXHAUSTIVE"


@pytest.mark.parametrize("rung", ["fp32", "bf16"])
def test_torch_session(rung):
    module = columns()
    [inputs, _] = probes({"B": 2, "W": 5})
    lowered = at_precision(module, Precision(rung))
    session = TorchSession(lowered, input_names=("x", "weight"), output_names=("features", "score"))
    outputs = session.run(inputs)
    for output, expected in zip(outputs.values(), module(**inputs), strict=True):
        assert output.dtype == torch.float32
        assert (output - expected).abs().max() < {"fp32": 1e-6, "bf16": 3e-2}[rung]


def test_sessions_refuse_other_inputs():
    session = open_session(text_weights(ANGLE), backend="openvino")
    with pytest.raises(ValueError, match="openvino: expected the inputs x, got y"):
        session.run({"y": noise(SHAPES[ANGLE])})
    with pytest.raises(ValueError, match="openvino: expected x on cpu, got meta"):
        session.run({"x": noise(SHAPES[ANGLE]).to("meta")})


def test_a_missing_backend_names_its_install(monkeypatch):
    missing = Backend(
        "pixelis_fast.no_such_module",
        "X",
        "no_such_package",
        "pip install it",
        onnx_session="X",
    )
    monkeypatch.setitem(BACKENDS, "missing", missing)
    with pytest.raises(ToolError, match=r"no_such_package.*pip install it"):
        open_session(text_weights(ANGLE), backend="missing")
    status = probe_backends()[-1]
    assert (status.name, status.available, status.version) == ("missing", False, None)
    assert "pip install it" in status.reason
    inputs = {"x": noise(SHAPES[ANGLE])}
    session = open_session(text_weights(ANGLE), backend="auto", warmup_inputs=inputs)
    assert "missing" not in session.reason


def test_bad_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="backend: expected auto, openvino, ort, got 'tpu'"):
        open_session(text_weights(ANGLE), backend="tpu")
    with pytest.raises(ValueError, match="threads: expected"):
        open_session(text_weights(ANGLE), backend="ort", threads=0)
    with pytest.raises(MissingWeightsError, match="no such file"):
        open_session(tmp_path / "none.onnx", backend="ort")


def test_a_backend_is_imported_only_when_picked():
    code = (
        "import sys; import pixelis_fast.tools_trt.backends, pixelis_fast.tools_trt.read_text; "
        "sys.exit(bool({'onnxruntime', 'openvino', 'rapidocr'} & set(sys.modules)))"
    )
    paths = [path for path in sys.path if path]
    code = f"import sys; sys.path[:0] = {paths!r}; {code}"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
