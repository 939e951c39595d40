"""Backends by name, each imported only when it is picked.

`open_session` loads a graph on a named backend, or measures all that are installed on one input
and keeps the fastest. Nothing is swapped silently: a named backend that is missing is an error,
and a session says why it was picked.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pixelis_fast.tools_trt.backends.session import Session
from pixelis_fast.tools_trt.results import MissingWeightsError, ToolError

__all__ = ["BACKENDS", "Backend", "BackendStatus", "Session", "open_session", "probe_backends"]

TIMED_RUNS = 3


class BackendMissingError(ToolError):
    """The backend asked for cannot be imported; says how to install it."""


@dataclass(frozen=True)
class Backend:
    """Where a backend's session lives and what it needs."""

    module: str
    """Module of ours, imported when picked."""
    session: str
    """Its class."""
    requires: str
    """The package it imports."""
    install: str
    """What installs that package."""


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
BACKENDS = {
    "openvino": Backend(
        f"{_HERE}.openvino", "OpenVinoSession", "openvino", "pip install pixelis-fast"
    ),
    "ort": Backend(f"{_HERE}.ort", "OrtSession", "onnxruntime", "pip install 'pixelis-fast[ort]'"),
}


def probe_backends() -> list[BackendStatus]:
    """Tries to import each backend's package."""
    return [_probe(name) for name in BACKENDS]


def open_session(
    onnx_path: str | Path,
    *,
    backend: str = "auto",
    threads: int = 1,
    warmup_inputs: dict[str, np.ndarray] | None = None,
) -> Session:
    """Loads a graph in fp32; "auto" needs `warmup_inputs` and keeps the fastest on them."""
    path = _check(Path(onnx_path), backend, threads)
    if backend != "auto":
        return _open(path, backend, threads)
    if warmup_inputs is None:
        raise ValueError(
            "warmup_inputs: expected arrays to measure on for backend 'auto', got None"
        )
    return _fastest(path, threads, warmup_inputs)


def _check(path: Path, backend: str, threads: int) -> Path:
    if backend not in (*BACKENDS, "auto"):
        raise ValueError(f"backend: expected auto, {', '.join(BACKENDS)}, got {backend!r}")
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
    return BackendStatus(name, True, "imports", version)


def _open(path: Path, name: str, threads: int) -> Session:
    backend = BACKENDS[name]
    try:
        module = importlib.import_module(backend.module)
    except ImportError as error:
        raise BackendMissingError(
            f"backend {name}: expected the package {backend.requires}, got {error}; "
            f"{backend.install}"
        ) from error
    return getattr(module, backend.session)(path, threads=threads)


def _fastest(path: Path, threads: int, inputs: dict[str, np.ndarray]) -> Session:
    available = [status.name for status in probe_backends() if status.available]
    if not available:
        raise BackendMissingError(f"backend auto: expected one of {', '.join(BACKENDS)}, got none")
    sessions = [_open(path, name, threads) for name in available]
    p50_ms = {session.name: _p50_ms(session, inputs) for session in sessions}
    fastest = min(sessions, key=lambda session: p50_ms[session.name])
    timings = ", ".join(f"{name} {ms:.1f} ms" for name, ms in p50_ms.items())
    fastest.reason = f"fastest p50 of {TIMED_RUNS} runs: {timings}"
    return fastest


def _p50_ms(session: Session, inputs: dict[str, np.ndarray]) -> float:
    session.run(inputs)
    return statistics.median(_run_ms(session, inputs) for _ in range(TIMED_RUNS))


def _run_ms(session: Session, inputs: dict[str, np.ndarray]) -> float:
    start = time.perf_counter()
    session.run(inputs)
    return (time.perf_counter() - start) * 1000
