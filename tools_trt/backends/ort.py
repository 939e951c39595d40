"""ONNX Runtime on the CPU, fp32. Imported only when this backend is picked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime


class OrtSession:
    name = "ort"

    def __init__(self, onnx_path: Path, *, threads: int) -> None:
        self.reason = "asked for"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(onnx_path), options, providers=["CPUExecutionProvider"]
        )
        self.input_names = tuple(node.name for node in self._session.get_inputs())
        self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        self._output_names = [node.name for node in self._session.get_outputs()]

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = self._session.run(self._output_names, inputs)
        return dict(zip(self._output_names, outputs, strict=True))
