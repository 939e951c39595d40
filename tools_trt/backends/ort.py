"""ONNX Runtime on the CPU, on CUDA, or on CUDA with TensorRT as its provider.

The provider in use is read back: ONNX Runtime otherwise carries on with the next one when a
library is missing. On the GPU every node must run there (no CPU node, no copy between devices),
tensors are bound where they lie, and a run is a CUDA graph over fixed buffers. Convolutions are
not searched exhaustively: with many shapes the search costs more than it gains. Imported only when
one of these backends is picked.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from torch import Tensor

from pixelis_fast.tools_trt.backends.builder import (
    BackendMissingError,
    EngineBuildError,
    PlanError,
    Probes,
)
from pixelis_fast.tools_trt.backends.gpu_libraries import library_versions
from pixelis_fast.tools_trt.backends.onnx_graphs import write_onnx
from pixelis_fast.tools_trt.backends.session import HOST, check_inputs, host_arrays
from pixelis_fast.tools_trt.backends.static_buffers import StaticBuffers
from pixelis_fast.tools_trt.graphs.precision import GPU_LADDER, Precision
from pixelis_fast.tools_trt.graphs.spec import BucketGraph

CPU, CUDA, TENSORRT = (
    "CPUExecutionProvider",
    "CUDAExecutionProvider",
    "TensorrtExecutionProvider",
)
MODEL_FILE = "model.onnx"
ERRORS_ONLY = 3
ORT_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidGraph,
    ort_errors.InvalidArgument,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
"""Each its own subclass of Exception."""


@contextmanager
def named_failure(name: str) -> Iterator[None]:
    """PlanError for a graph that loads and does not run: a kernel may refuse its numbers then."""
    try:
        yield
    except ORT_ERRORS as error:
        raise PlanError(f"{name}: ONNX Runtime cannot run it: {error}") from error


class OrtSession:
    """A graph on the CPU."""

    device = HOST

    def __init__(
        self, onnx_path: Path, *, threads: int, name: str = "ort", reason: str = "asked for"
    ) -> None:
        self.name, self.reason = name, reason
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        self._session = onnxruntime.InferenceSession(str(onnx_path), options, providers=[CPU])
        self.input_names = tuple(node.name for node in self._session.get_inputs())
        self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        self._output_names = [node.name for node in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        arrays = host_arrays(self, inputs)
        with named_failure(self.name):
            outputs = self._session.run(self._output_names, arrays)
        tensors = [torch.from_numpy(output) for output in outputs]
        return dict(zip(self._output_names, tensors, strict=True))


class OrtGpuSession:
    """A static graph on the GPU: fixed buffers, bound once, replayed as a CUDA graph."""

    def __init__(self, graph: BucketGraph, session: Any, *, name: str, device: torch.device):
        self.name, self.reason, self.device = name, "asked for", device
        self.input_names = tuple(spec.name for spec in graph.inputs)
        self.metadata = dict(session.get_modelmeta().custom_metadata_map)
        self._session = session
        self._buffers = StaticBuffers(graph, device)
        self._binding = self._bind()
        self._turn = threading.Lock()

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        check_inputs(self, inputs)
        with self._turn:
            self._buffers.fill(inputs)
            # ONNX Runtime runs on a stream of its own: the inputs must have arrived.
            torch.cuda.current_stream(self.device).synchronize()
            with named_failure(self.name):
                self._session.run_with_iobinding(self._binding)
            return self._buffers.outputs()

    def _bind(self) -> Any:
        binding = self._session.io_binding()
        for bind, tensors in (
            (binding.bind_input, self._buffers.inputs),
            (binding.bind_output, self._buffers.results),
        ):
            for name, tensor in tensors.items():
                kind = str(tensor.dtype).removeprefix("torch.")
                place = ("cuda", self.device.index or 0)
                bind(name, *place, kind, list(tensor.shape), tensor.data_ptr())
        return binding


@dataclass(frozen=True)
class OrtBuilder:
    """One provider of ONNX Runtime."""

    name: str
    provider: str

    @property
    def device(self) -> torch.device:
        return HOST if self.provider == CPU else torch.device("cuda", torch.cuda.current_device())

    def why_not(self) -> str | None:
        offered = onnxruntime.get_available_providers()
        if self.provider not in offered:
            return f"expected the provider {self.provider}, got {', '.join(offered)}"
        if self.provider != CPU and not torch.cuda.is_available():
            return "expected a CUDA device, got none"
        return None

    def versions(self) -> dict[str, str]:
        ours = {"onnxruntime": onnxruntime.__version__, "provider": self.provider}
        return ours if self.provider == CPU else ours | library_versions()

    def rungs(self, graph: BucketGraph) -> tuple[str, ...]:
        return ("fp32",) if self.provider == CPU else GPU_LADDER

    def build(
        self, graph: BucketGraph, precision: Precision, *, folder: Path, probes: Probes
    ) -> None:
        if self.provider == CPU and precision.rung not in ("fp32", "int8"):
            raise EngineBuildError(f"{self.name}: expected fp32 or int8, got {precision}")
        write_onnx(graph, precision, folder / MODEL_FILE, probes=probes)

    def load(
        self, graph: BucketGraph, precision: Precision, *, folder: Path, threads: int
    ) -> OrtSession | OrtGpuSession:
        try:
            return self._open(graph, precision, folder / MODEL_FILE, threads=threads)
        except ORT_ERRORS as error:
            raise PlanError(f"{graph.name}: ONNX Runtime cannot load it: {error}") from error

    def _open(
        self, graph: BucketGraph, precision: Precision, path: Path, *, threads: int
    ) -> OrtSession | OrtGpuSession:
        name = self.name if precision.rung == "fp32" else f"{self.name}-{precision.rung}"
        if self.provider == CPU:
            return OrtSession(path, threads=threads, name=name)
        session = open_provider(path, self.provider)
        return OrtGpuSession(graph, session, name=name, device=self.device)


def open_provider(path: Path, provider: str) -> Any:
    """A session whose first provider is the one asked for, with no node left to the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    providers = [(provider, provider_options(provider, path.parent))]
    if provider == TENSORRT:
        providers.append((CUDA, provider_options(CUDA, path.parent)))
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    return check_provider(session, provider)


def check_provider(session: Any, provider: str) -> Any:
    """The session, or an error where another provider took over."""
    effective = session.get_providers()
    if effective[0] != provider:
        raise BackendMissingError(f"ort: expected {provider}, got {', '.join(effective)}")
    return session


def provider_options(provider: str, folder: Path) -> dict[str, str]:
    """Precision is not among them: it lies in the graph's own types."""
    if provider == CUDA:
        return {"cudnn_conv_algo_search": "HEURISTIC", "enable_cuda_graph": "1", "use_tf32": "0"}
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
        "trt_cuda_graph_enable": "1",
    }


CPU_BUILDER = OrtBuilder("ort", CPU)
CUDA_BUILDER = OrtBuilder("ort-cuda", CUDA)
TENSORRT_BUILDER = OrtBuilder("ort-tensorrt", TENSORRT)
