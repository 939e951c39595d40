"""A plan's key: everything whose change makes the plan another one.

The graph with its structure, tables and sources; the weights; the bucket; what precisions may be
tried and the gate they face; the backend with its full version; the device with driver and
features; torch; the exporting code.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pixelis_fast.tools_trt.backends.builder import Builder
from pixelis_fast.tools_trt.engines.plans import file_sha256
from pixelis_fast.tools_trt.graphs.device_identity import device_identity, exporter_version
from pixelis_fast.tools_trt.graphs.spec import Bucket, EngineSpec, TensorSpec

PLAIN = (bool, int, float, str, type(None))


def plan_key(
    spec: EngineSpec, bucket: Bucket, *, builder: Builder, rungs: Sequence[str], threads: int
) -> dict[str, Any]:
    """The key as JSON."""
    return {
        "engine": spec.name,
        "graph": graph_sha256(spec, bucket),
        "weights": spec.weights_id,
        "bucket": dict(bucket),
        "tensors": [_tensor(tensor) for tensor in (*spec.inputs, *spec.outputs)],
        "rungs": list(rungs),
        "gate": [dataclasses.asdict(check) for check in spec.gate.checks],
        "backend": builder.name,
        "versions": builder.versions(),
        "device": device_identity(builder.device),
        "threads": threads if builder.device.type == "cpu" else None,
        "torch": torch.__version__,
        "exporter": exporter_version(),
    }


def graph_sha256(spec: EngineSpec, bucket: Bucket) -> str:
    """Of the ONNX file, or of a module's structure, settings, tables and source files."""
    if spec.onnx_path is not None:
        return file_sha256(spec.onnx_path)
    assert spec.build is not None
    digest = hashlib.sha256()
    module = spec.build(bucket)
    for line in _lines(module):
        digest.update(line.encode() + b"\n")
    for name, buffer in module.named_buffers():
        digest.update(name.encode())
        digest.update(_bytes(buffer))
    for path in sorted(_sources(module)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _tensor(spec: TensorSpec) -> list[Any]:
    return [spec.name, str(spec.dtype), list(spec.shape), spec.pad]


def _lines(module: nn.Module) -> Iterator[str]:
    """Every part's class and plain settings, every parameter's shape and type."""
    for name, part in module.named_modules():
        settings = {key: repr(v) for key, v in sorted(vars(part).items()) if _is_setting(key, v)}
        yield f"{name}: {type(part).__qualname__} {settings}"
    for name, parameter in module.named_parameters():
        yield f"{name}: {tuple(parameter.shape)} {parameter.dtype}"


def _is_setting(name: str, value: object) -> bool:
    """Whether the module last ran in training says nothing about what is built from it."""
    return name != "training" and _is_plain(value)


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(part) for part in value)
    return isinstance(value, PLAIN) or (
        dataclasses.is_dataclass(value) and not isinstance(value, type)
    )


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _sources(module: nn.Module) -> set[Path]:
    """Files of the classes that are not torch's own, whose version is a field of its own."""
    kinds = {type(part) for part in module.modules()}
    files = {inspect.getsourcefile(k) for k in kinds if not k.__module__.startswith("torch.")}
    return {Path(file) for file in files if file is not None}
