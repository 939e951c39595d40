"""Backends by name, each imported only when it is picked.

`open_session` loads an ONNX file on a named backend, or measures those that are installed on one
input and keeps the fastest. `builder` gives a backend to an engine. Nothing is swapped silently: a
named backend that is missing is an error, and a session says why it was picked.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from pixelis_fast.tools_trt.backends.builder import BackendMissingError, Builder, EngineBuildError
from pixelis_fast.tools_trt.backends.session import Session
from pixelis_fast.tools_trt.results import MissingWeightsError

__all__ = [
    "BACKENDS",
    "Backend",
    "BackendMissingError",
    "BackendStatus",
    "Builder",
    "EngineBuildError",
    "Session",
    "builder",
    "open_session",
    "p50_ms",
    "probe_backends",
]

TIMED_RUNS = 3


@dataclass(frozen=True)
class Backend:
    """Where a backend lives and what it needs."""

    module: str
    """Module of ours, imported when picked."""
    builder: str
    """Its `Builder`."""
    requires: str
    """The package it imports."""
    install: str
    """What installs that package."""
    device: str = "cpu"
    """The kind of device it runs on."""
    onnx_session: str | None = None
    """The class that opens an ONNX file as it is; None where a graph must be built first."""


@dataclass(frozen=True)
class BackendStatus:
    """Whether a backend can be picked here.

    Example:
        BackendStatus("openvino", available=True, reason="imports", version="2026.4.1")
    """

    name: str
    available: bool
    reason: str
    version: str | None


_HERE = "pixelis_fast.tools_trt.backends"
_OURS = "pip install pixelis-fast"
_ORT_GPU = "pip install 'pixelis-fast[ort-gpu]'"
_TENSORRT = "pip install 'pixelis-fast[gpu]'"
BACKENDS = {
    "openvino": Backend(
        f"{_HERE}.openvino", "BUILDER", "openvino", _OURS, onnx_session="OpenVinoSession"
    ),
    "ort": Backend(
        f"{_HERE}.ort",
        "CPU_BUILDER",
        "onnxruntime",
        "pip install 'pixelis-fast[ort]'",
        onnx_session="OrtSession",
    ),
    "torch_cpu": Backend(f"{_HERE}.torch_cpu", "BUILDER", "torch", _OURS),
    "tensorrt": Backend(f"{_HERE}.tensorrt", "BUILDER", "tensorrt", _TENSORRT, "cuda"),
    "ort-tensorrt": Backend(f"{_HERE}.ort", "TENSORRT_BUILDER", "onnxruntime", _ORT_GPU, "cuda"),
    "torch_graph": Backend(f"{_HERE}.torch_graph", "BUILDER", "torch", _OURS, "cuda"),
    "ort-cuda": Backend(f"{_HERE}.ort", "CUDA_BUILDER", "onnxruntime", _ORT_GPU, "cuda"),
}


def probe_backends() -> list[BackendStatus]:
    """Tries each backend: its package, and whether it can run here."""
    return [_probe(name) for name in BACKENDS]


def builder(name: str) -> Builder:
    """The named backend for engines; BackendMissingError says why it cannot run here."""
    if name not in BACKENDS:
        raise ValueError(f"backend: expected auto, {', '.join(BACKENDS)}, got {name!r}")
    found = cast(Builder, _imported(name, BACKENDS[name].builder))
    if reason := found.why_not():
        raise BackendMissingError(f"backend {name}: {reason}")
    return found


def open_session(
    onnx_path: str | Path,
    *,
    backend: str = "auto",
    threads: int = 1,
    warmup_inputs: Mapping[str, Tensor] | None = None,
) -> Session:
    """Loads a graph in fp32; "auto" needs `warmup_inputs` and keeps the fastest on them."""
    path = _check(Path(onnx_path), backend, threads)
    if backend != "auto":
        return _open(path, backend, threads)
    if warmup_inputs is None:
        raise ValueError(
            "warmup_inputs: expected tensors to measure on for backend 'auto', got None"
        )
    return _fastest(path, threads, warmup_inputs)


def p50_ms(session: Session, inputs: Mapping[str, Tensor], *, runs: int = TIMED_RUNS) -> float:
    """Median wall time of a run, after one that is not counted."""
    session.run(inputs)
    return statistics.median(_run_ms(session, inputs) for _ in range(runs))


def _readers() -> list[str]:
    """Backends that open ONNX files as they are."""
    return [name for name, backend in BACKENDS.items() if backend.onnx_session]


def _check(path: Path, backend: str, threads: int) -> Path:
    if backend not in (*_readers(), "auto"):
        raise ValueError(f"backend: expected auto, {', '.join(_readers())}, got {backend!r}")
    if threads < 1:
        raise ValueError(f"threads: expected at least 1, got {threads}")
    if not path.is_file():
        raise MissingWeightsError(f"onnx file: expected {path}, got no such file")
    return path


def _probe(name: str) -> BackendStatus:
    package = BACKENDS[name].requires
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        return BackendStatus(name, False, f"{error}; {BACKENDS[name].install}", None)
    version = str(getattr(module, "__version__", "unknown"))
    try:
        builder(name)
    except BackendMissingError as error:
        return BackendStatus(name, False, str(error), version)
    return BackendStatus(name, True, "imports", version)


def _open(path: Path, name: str, threads: int) -> Session:
    session = _imported(name, str(BACKENDS[name].onnx_session))
    return cast(Session, session(path, threads=threads))  # type: ignore[operator]


def _imported(name: str, attribute: str) -> object:
    backend = BACKENDS[name]
    try:
        module = importlib.import_module(backend.module)
    except ImportError as error:
        raise BackendMissingError(
            f"backend {name}: expected the package {backend.requires}, got {error}; "
            f"{backend.install}"
        ) from error
    return getattr(module, attribute)


def _fastest(path: Path, threads: int, inputs: Mapping[str, Tensor]) -> Session:
    statuses = [status for status in probe_backends() if status.name in _readers()]
    available = [status.name for status in statuses if status.available]
    if not available:
        raise BackendMissingError(
            f"backend auto: expected one of {', '.join(_readers())}, got none"
        )
    sessions = [_open(path, name, threads) for name in available]
    medians = {session.name: p50_ms(session, inputs) for session in sessions}
    fastest = min(sessions, key=lambda session: medians[session.name])
    timings = ", ".join(f"{name} {ms:.1f} ms" for name, ms in medians.items())
    fastest.reason = f"fastest p50 of {TIMED_RUNS} runs: {timings}"
    return fastest


def _run_ms(session: Session, inputs: Mapping[str, Tensor]) -> float:
    start = time.perf_counter()
    session.run(inputs)
    if session.device.type == "cuda":
        torch.cuda.synchronize(session.device)
    return (time.perf_counter() - start) * 1000
