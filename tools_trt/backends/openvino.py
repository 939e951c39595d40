"""OpenVINO on the CPU, fp32. Imported only when this backend is picked.

The precision hint is set because on a processor with bf16 units OpenVINO otherwise computes in
bf16 without being asked.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import openvino


class OpenVinoSession:
    name = "openvino"

    def __init__(self, onnx_path: Path, *, threads: int) -> None:
        self.reason = "asked for"
        model = openvino.Core().read_model(onnx_path)
        self.input_names = tuple(node.get_any_name() for node in model.inputs)
        self.metadata = _metadata(model)
        self._output_names = [node.get_any_name() for node in model.outputs]
        self._request = _compile(model, threads).create_infer_request()
        # One request: its output tensors are overwritten by the next call.
        self._turn = threading.Lock()

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with self._turn:
            outputs = self._request.infer(inputs, share_inputs=True)
            return {name: outputs[n] for n, name in enumerate(self._output_names)}


def _compile(model: Any, threads: int) -> Any:
    return openvino.Core().compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        },
    )


def _metadata(model: Any) -> dict[str, str]:
    """The ONNX file's custom fields, which OpenVINO keeps below "framework"."""
    info = model.get_rt_info()
    if "framework" not in info:
        return {}
    return {str(key): str(value.value) for key, value in info["framework"].items()}
