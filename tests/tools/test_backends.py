"""Backends: equal answers, honest choice, and clear errors for what is missing."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from pixelis_fast.tools_trt import backends
from pixelis_fast.tools_trt.backends import BACKENDS, Backend, open_session, probe_backends
from pixelis_fast.tools_trt.results import MissingWeightsError, ToolError
from pixelis_fast.tools_trt.text_weights import ANGLE, DETECTOR, RECOGNIZER, text_weights

TOLERANCE = 2e-4
"""Largest difference between backends: fp32, different summation order."""
SHAPES = {DETECTOR: (1, 3, 160, 224), RECOGNIZER: (2, 3, 48, 160), ANGLE: (2, 3, 48, 192)}


def noise(shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def run(session, pixels):
    return next(iter(session.run({"x": pixels}).values()))


@pytest.mark.parametrize("graph", SHAPES)
def test_backends_agree(graph):
    pixels = noise(SHAPES[graph])
    sessions = [open_session(text_weights(graph), backend=name) for name in BACKENDS]
    first, *others = (run(session, pixels) for session in sessions)
    for session, output in zip(sessions[1:], others, strict=True):
        assert output.dtype == np.float32
        np.testing.assert_allclose(output, first, atol=TOLERANCE, err_msg=session.name)
        assert session.metadata == sessions[0].metadata
        assert session.input_names == sessions[0].input_names


@pytest.mark.parametrize("name", BACKENDS)
def test_outputs_belong_to_the_caller(name):
    session = open_session(text_weights(ANGLE), backend=name)
    one = run(session, noise(SHAPES[ANGLE]))
    before = one.copy()
    run(session, noise(SHAPES[ANGLE], seed=1))
    np.testing.assert_array_equal(one, before)


@pytest.mark.parametrize("name", BACKENDS)
def test_threads_get_their_own_answers(name):
    session = open_session(text_weights(ANGLE), backend=name)
    inputs = [noise(SHAPES[ANGLE], seed) for seed in range(4)]
    expected = [run(session, x) for x in inputs]
    wrong = []

    def work(n):
        for _ in range(5):
            if not np.array_equal(run(session, inputs[n]), expected[n]):
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
    assert session.name in BACKENDS
    assert all(name in session.reason for name in BACKENDS)
    assert "ms" in session.reason


def test_auto_keeps_the_fastest(monkeypatch):
    slow = dict.fromkeys(BACKENDS, 2.0) | {"ort": 1.0}
    monkeypatch.setattr(backends, "_p50_ms", lambda session, inputs: slow[session.name])
    session = open_session(text_weights(ANGLE), backend="auto", warmup_inputs={})
    assert session.name == "ort"


def test_auto_needs_something_to_measure_on():
    with pytest.raises(ValueError, match="warmup_inputs: expected"):
        open_session(text_weights(ANGLE), backend="auto")


def test_probe_backends():
    found = {status.name: status for status in probe_backends()}
    assert list(found) == list(BACKENDS)
    assert all(status.available and status.version for status in found.values())


def test_a_missing_backend_names_its_install(monkeypatch):
    missing = Backend("pixelis_fast.no_such_module", "X", "no_such_package", "pip install it")
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
