"""CRAFT and the CRNN as sessions for pictures of any size.

OpenVINO takes the modules without a detour through a file; torch runs them as they are. Sizes stay
open: EasyOCR pads a picture to multiples of 32 and no further, and more padding would change what
it reads near the edge.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping
from pathlib import Path

import openvino
import torch
from torch import Tensor, nn

from pixelis_fast.tools_trt.backends import Session
from pixelis_fast.tools_trt.backends.session import HOST, host_arrays
from pixelis_fast.tools_trt.backends.torch_cpu import TorchSession
from pixelis_fast.tools_trt.models.crnn import LINE_HEIGHT
from pixelis_fast.tools_trt.ocr.easyocr_weights import load_craft, load_crnn
from pixelis_fast.tools_trt.ocr.gate import Precision, has_bfloat16

Shape = tuple[int, ...]
BACKENDS = ("openvino", "torch_cpu")
PICTURES: Shape = (1, 3, -1, -1)
LINES: Shape = (-1, 1, LINE_HEIGHT, -1)
"""-1 stands for any size."""
TRACED_SIZE = 64
"""What stands in for any size while a module is traced."""


def open_craft(folder: Path | None, *, backend: str, precision: Precision, threads: int) -> Session:
    """The detector; in bf16 some of its layers stay float32, see `Craft.in_bfloat16`."""
    craft = load_craft(folder)
    if precision == "fp32":
        return _open(craft, PICTURES, backend=backend, threads=threads)
    _check_bfloat16(backend)
    return OpenVinoModule(craft.in_bfloat16(), PICTURES, name="openvino-bf16", threads=threads)


def open_crnn(folder: Path | None, *, backend: str, precision: Precision, threads: int) -> Session:
    """The recogniser."""
    if precision == "fp32":
        return _open(load_crnn(folder), LINES, backend=backend, threads=threads)
    _check_bfloat16(backend)
    return OpenVinoModule(
        load_crnn(folder), LINES, name="openvino-bf16", threads=threads, hint="bf16"
    )


def _open(module: nn.Module, shape: Shape, *, backend: str, threads: int) -> Session:
    if backend == "openvino":
        return OpenVinoModule(module, shape, name=backend, threads=threads)
    if backend == "torch_cpu":
        # torch has one setting for the whole process.
        torch.set_num_threads(threads)
        return TorchSession(module, input_names=("input",), output_names=("output",))
    raise ValueError(f"backend: expected {', '.join(BACKENDS)} for easyocr, got {backend!r}")


def _check_bfloat16(backend: str) -> None:
    if backend != "openvino" or not has_bfloat16():
        raise ValueError(
            f"precision bf16: expected backend openvino on a processor with bf16, got {backend}"
        )


class OpenVinoModule:
    """A torch module compiled for the CPU; the types of its tensors are kept.

    `hint` is what OpenVINO may narrow float32 to: "f32" for nothing, "bf16" for everything.
    """

    def __init__(
        self,
        module: nn.Module,
        shape: Shape,
        *,
        name: str,
        threads: int,
        hint: str = "f32",
    ) -> None:
        self.name, self.reason = name, "asked for"
        self.device = HOST
        self.metadata: dict[str, str] = {}
        self.input_names: tuple[str, ...] = ("input",)
        # OpenVINO's constants are the module's own tensors: they must live as long as the graph.
        self._module = module.eval()
        options = {
            "INFERENCE_PRECISION_HINT": hint,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        compiled = openvino.Core().compile_model(_converted(self._module, shape), "CPU", options)
        self._request = compiled.create_infer_request()
        # One request: its output tensors are overwritten by the next call.
        self._turn = threading.Lock()

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        arrays = host_arrays(self, inputs)
        with self._turn:
            outputs = self._request.infer([arrays["input"]], share_inputs=True)
            return {"output": torch.from_numpy(outputs[0])}


def _converted(module: nn.Module, shape: Shape) -> openvino.Model:
    example = torch.zeros([TRACED_SIZE if size == -1 else size for size in shape])
    with warnings.catch_warnings():
        # OpenVINO traces by torch.jit, which warns that it will go one day.
        warnings.simplefilter("ignore")
        model = openvino.convert_model(module, example_input=example)
    model.reshape(list(shape))
    return model
