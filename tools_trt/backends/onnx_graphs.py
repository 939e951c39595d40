"""ONNX files for backends that read them: exported, fixed to a bucket, cast to fp16, quantised.

Strongly typed builders take their precision from the file alone, so a cast here is what decides
it. Modules are cast before their export (`precision.at_precision`); only shipped ONNX files are
cast and quantised as files. Needs the packages onnx, onnxscript, onnxruntime where used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pixelis_fast.tools_trt.backends.builder import EngineBuildError, module_of
from pixelis_fast.tools_trt.graphs.precision import Precision, at_precision
from pixelis_fast.tools_trt.graphs.spec import BucketGraph

OPSET = 20
"""The first with GELU as one operator, which builders fuse."""
SENSITIVE_OPERATORS = ("LayerNormalization", "Softmax", "ReduceMean", "Pow", "Sqrt", "Exp")
"""Sums and powers that leave fp16's range first: the islands of an ONNX file."""

QUANTISED = ("Conv", "MatMul", "Gemm")
"""With weights as one factor: OpenVINO refuses int8 products of two activations."""


def write_onnx(
    graph: BucketGraph, precision: Precision, path: Path, *, probes: Sequence[dict[str, Tensor]]
) -> None:
    """The bucket's graph in a precision, with static shapes."""
    if precision.rung == "int8":
        plain = path.with_name("fp32.onnx")
        write_onnx(graph, Precision("fp32"), plain, probes=probes)
        _quantize(plain, path, probes)
        plain.unlink()
    elif graph.onnx_path is None:
        _export(graph, precision, path)
    else:
        _cast_file(graph, graph.onnx_path, precision=precision, path=path)


def _export(graph: BucketGraph, precision: Precision, path: Path) -> None:
    module = at_precision(module_of(graph, "an ONNX export"), precision)
    try:
        torch.onnx.export(
            module,
            graph.example(),
            path,
            dynamo=True,
            opset_version=OPSET,
            input_names=[spec.name for spec in graph.inputs],
            output_names=[spec.name for spec in graph.outputs],
            external_data=False,
            verbose=False,
        )
    except RuntimeError as error:
        raise EngineBuildError(f"{graph.name}: ONNX export failed: {error}") from error


def _cast_file(graph: BucketGraph, source: Path, *, precision: Precision, path: Path) -> None:
    import onnx

    model = onnx.load(source)
    _fix_shapes(model, graph)
    if precision.rung == "fp16":
        from onnxruntime.transformers import float16

        blocked = [*float16.DEFAULT_OP_BLOCK_LIST, *precision.islands]
        model = float16.convert_float_to_float16(model, keep_io_types=True, op_block_list=blocked)
    elif precision.rung != "fp32":
        raise EngineBuildError(
            f"{graph.name}: expected fp32, fp16 or int8 for an ONNX file, got {precision.rung}"
        )
    onnx.save(model, path)


def _fix_shapes(model: Any, graph: BucketGraph) -> None:
    """Writes the bucket's sizes into the inputs; inner shapes are inferred anew by the reader."""
    values = {value.name: value for value in model.graph.input}
    if missing := [spec.name for spec in graph.inputs if spec.name not in values]:
        raise EngineBuildError(f"{graph.name}: expected inputs of {sorted(values)}, got {missing}")
    for spec in graph.inputs:
        dims = values[spec.name].type.tensor_type.shape.dim
        for dim, size in zip(dims, graph.shape_of(spec), strict=True):
            dim.dim_value = size
    del model.graph.value_info[:]


def _quantize(plain: Path, path: Path, probes: Sequence[dict[str, Tensor]]) -> None:
    """Q/DQ nodes around products with weights and what enters them, calibrated on the probes.

    One scale per weight: with one per channel ONNX Runtime refuses to run some of these products.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class ProbeReader(CalibrationDataReader):
        def __init__(self) -> None:
            self._probes = _arrays(probes)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._probes, None)

    quantize_static(
        str(plain),
        str(path),
        ProbeReader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(QUANTISED),
        extra_options={"MatMulConstBOnly": True},
    )


def _arrays(probes: Sequence[dict[str, Tensor]]) -> Iterator[dict[str, np.ndarray]]:
    for probe in probes:
        yield {name: tensor.cpu().numpy() for name, tensor in probe.items()}
