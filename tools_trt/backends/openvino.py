"""OpenVINO on the CPU: fp32, bf16 arithmetic where the processor has it, int8 where asked.

The graph stays fp32 on disk and the precision hint decides the arithmetic. The hint is always set:
on a processor with bf16 units OpenVINO otherwise computes in bf16 without being asked. Imported
only when this backend is picked.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openvino
import torch
from torch import Tensor

from pixelis_fast.tools_trt.backends.builder import (
    EngineBuildError,
    PlanError,
    Probes,
    module_of,
)
from pixelis_fast.tools_trt.backends.onnx_graphs import write_onnx
from pixelis_fast.tools_trt.backends.session import HOST, host_arrays
from pixelis_fast.tools_trt.graphs.precision import Precision
from pixelis_fast.tools_trt.graphs.spec import BucketGraph

HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
"""What int8 does not cover runs in fp32."""
IR_FILE = "model.xml"
KEPT_KERNELS = 512
"""Kernels OpenVINO keeps for input sizes it has met, many a size. Its own 5,000 let memory grow
through thousands of crops (`bench/soak.py`); a size that fell out is prepared anew."""


class OpenVinoSession:
    """A compiled graph with one request."""

    device = HOST

    def __init__(
        self, path: Path, *, threads: int, precision: str = "fp32", reason: str = "asked for"
    ) -> None:
        self.name = "openvino" if precision == "fp32" else f"openvino-{precision}"
        self.reason = reason
        model = openvino.Core().read_model(path)
        self.input_names = tuple(node.get_any_name() for node in model.inputs)
        self.metadata = _metadata(model)
        self._output_names = [node.get_any_name() for node in model.outputs]
        self._request = _compile(model, threads, HINTS[precision]).create_infer_request()
        # One request: its output tensors are overwritten by the next call.
        self._turn = threading.Lock()

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        arrays = host_arrays(self, inputs)
        with self._turn:
            outputs = self._request.infer(arrays, share_inputs=True)
            return {n: torch.from_numpy(outputs[i]) for i, n in enumerate(self._output_names)}


class OpenVinoBuilder:
    """Modules by torch.export, ONNX files as they are; the plan is OpenVINO's own format."""

    name = "openvino"
    device = HOST

    def why_not(self) -> str | None:
        return None

    def versions(self) -> dict[str, str]:
        return {"openvino": openvino.__version__}

    def rungs(self, graph: BucketGraph) -> tuple[str, ...]:
        capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return ("bf16", "fp32") if "BF16" in capabilities else ("fp32",)

    def build(
        self, graph: BucketGraph, precision: Precision, *, folder: Path, probes: Probes
    ) -> None:
        if precision.rung not in HINTS:
            raise EngineBuildError(f"openvino: expected {', '.join(HINTS)}, got {precision}")
        try:
            model = _model(graph, precision, folder, probes)
        except RuntimeError as error:
            raise EngineBuildError(f"{graph.name}: OpenVINO refused it: {error}") from error
        openvino.save_model(model, folder / IR_FILE, compress_to_fp16=False)

    def load(
        self, graph: BucketGraph, precision: Precision, *, folder: Path, threads: int
    ) -> OpenVinoSession:
        try:
            return OpenVinoSession(folder / IR_FILE, threads=threads, precision=precision.rung)
        except RuntimeError as error:
            raise PlanError(f"{graph.name}: OpenVINO cannot load it: {error}") from error


def _model(graph: BucketGraph, precision: Precision, folder: Path, probes: Probes) -> Any:
    if precision.rung == "int8":
        quantized = folder / "int8.onnx"
        write_onnx(graph, precision, quantized, probes=probes)
        model = openvino.Core().read_model(quantized)
        quantized.unlink()
        return model
    if graph.onnx_path is None:
        return _converted(graph)
    model = openvino.Core().read_model(graph.onnx_path)
    model.reshape({spec.name: list(graph.shape_of(spec)) for spec in graph.inputs})
    return model


def _converted(graph: BucketGraph) -> Any:
    """The module under the spec's names, with the bucket's sizes."""
    with torch.no_grad():
        program = torch.export.export(module_of(graph, "openvino"), graph.example())
    model = openvino.convert_model(program)
    for nodes, specs in ((model.inputs, graph.inputs), (model.outputs, graph.outputs)):
        if len(nodes) != len(specs):
            raise EngineBuildError(
                f"{graph.name}: expected {len(specs)} tensors after conversion, got {len(nodes)}"
            )
        for node, spec in zip(nodes, specs, strict=True):
            node.get_tensor().set_names({spec.name})
    model.reshape({spec.name: list(graph.shape_of(spec)) for spec in graph.inputs})
    return model


def _compile(model: Any, threads: int, hint: str) -> Any:
    return openvino.Core().compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": hint,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "CPU_RUNTIME_CACHE_CAPACITY": KEPT_KERNELS,
        },
    )


def _metadata(model: Any) -> dict[str, str]:
    """The ONNX file's custom fields, which OpenVINO keeps below "framework"."""
    info = model.get_rt_info()
    if "framework" not in info:
        return {}
    return {str(key): str(value.value) for key, value in info["framework"].items()}


BUILDER = OpenVinoBuilder()
