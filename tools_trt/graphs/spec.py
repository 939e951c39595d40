"""What an engine is made from: named tensors with named axes, buckets, a graph, probes, a gate.

A named axis ("B", "L") has one size per bucket, and every bucket is a static graph of its own;
"H/4", "L*2" and "W/4-1" derive a size from an axis. A graph is a torch module built in fp32 for a
bucket, or a shipped ONNX file. Nothing here runs anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pixelis_fast.tools_trt.graphs.gates import Gate

Bucket = Mapping[str, int]
AXIS = re.compile(r"([A-Za-z]\w*)(?:([*/])(\d+))?([+-]\d+)?")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    Example:
        TensorSpec("labels", torch.float32, ("B", "P"), pad=-1.0)
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int | str, ...]
    """A number, an axis, or an axis multiplied or divided by a number."""
    pad: float = 0.0
    """What fills an input up to its bucket; the graph must read it as "nothing here"."""

    def sizes(self, bucket: Bucket) -> tuple[int, ...]:
        """The shape in one bucket."""
        return tuple(axis_size(axis, bucket) for axis in self.shape)

    def axes(self) -> set[str]:
        return {Axis.parse(axis).name for axis in self.shape if isinstance(axis, str)}


@dataclass(frozen=True)
class BucketGraph:
    """One bucket's static graph: what a backend builds from."""

    name: str
    inputs: tuple[TensorSpec, ...]
    """With numbers only in their shapes."""
    outputs: tuple[TensorSpec, ...]
    build: Callable[[], nn.Module] | None
    """The fp32 module; None where the graph is an ONNX file."""
    onnx_path: Path | None

    def example(self) -> tuple[Tensor, ...]:
        """Zeros of the inputs' shapes, for tracing."""
        return tuple(torch.zeros(self.shape_of(spec), dtype=spec.dtype) for spec in self.inputs)

    @staticmethod
    def shape_of(spec: TensorSpec) -> tuple[int, ...]:
        return spec.sizes({})


@dataclass(frozen=True)
class EngineSpec:
    """All that `open_engine` needs to know of one graph.

    Example:
        EngineSpec("sam2.1-tiny/encoder", inputs=…, outputs=…, buckets=({"B": 1}, {"B": 4}),
                   build=lambda bucket: graphs.encoder, weights_id=sha256, probes=…, gate=…)
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    buckets: tuple[Bucket, ...]
    weights_id: str
    """sha256 of the weights."""
    probes: Callable[[Bucket], list[dict[str, Tensor]]]
    """Inputs the gate looks at, the same at every call; the first also tests a loaded plan."""
    gate: Gate
    build: Callable[[Bucket], nn.Module] | None = None
    onnx_path: Path | None = None
    exact_axes: frozenset[str] = frozenset()
    """Axes whose size selects another graph, so that an input must have a bucket's size there."""

    def __post_init__(self) -> None:
        if (self.build is None) == (self.onnx_path is None):
            raise ValueError(f"{self.name}: expected build or onnx_path, got both or neither")
        if not self.buckets:
            raise ValueError(f"{self.name}: expected at least one bucket, got none")
        self._check_axes()
        self.gate.check_outputs(spec.name for spec in self.outputs)

    def at(self, bucket: Bucket) -> BucketGraph:
        """The static graph of one bucket."""
        build = self.build
        return BucketGraph(
            name=f"{self.name}@{bucket_label(bucket)}",
            inputs=tuple(_fixed(spec, bucket) for spec in self.inputs),
            outputs=tuple(_fixed(spec, bucket) for spec in self.outputs),
            build=None if build is None else lambda: build(bucket),
            onnx_path=self.onnx_path,
        )

    def _check_axes(self) -> None:
        of_inputs = {axis for spec in self.inputs for axis in spec.axes()}
        for spec in self.outputs:
            if missing := spec.axes() - of_inputs:
                raise ValueError(
                    f"{self.name}: expected {spec.name}'s axes in inputs, got {missing}"
                )
        if unknown := self.exact_axes - of_inputs:
            raise ValueError(f"{self.name}: expected exact_axes of inputs, got {sorted(unknown)}")
        for bucket in self.buckets:
            if set(bucket) != of_inputs:
                raise ValueError(
                    f"{self.name}: expected buckets over {sorted(of_inputs)}, got {dict(bucket)}"
                )
            self._check_divisible(bucket)

    def _check_divisible(self, bucket: Bucket) -> None:
        for spec in (*self.inputs, *self.outputs):
            for axis in (Axis.parse(axis) for axis in spec.shape if isinstance(axis, str)):
                if bucket[axis.name] * axis.factor % axis.divisor:
                    raise ValueError(
                        f"{self.name}: expected a multiple of {axis.divisor} for {axis.name}, got "
                        f"{bucket[axis.name]}"
                    )


def bucket_label(bucket: Bucket) -> str:
    """{"B": 4, "L": 64} -> "B4-L64"; "static" without named axes."""
    return "-".join(f"{axis}{size}" for axis, size in sorted(bucket.items())) or "static"


@dataclass(frozen=True)
class Axis:
    """A size derived from a named axis: "W/4-1" is Axis("W", divisor=4, offset=-1)."""

    name: str
    factor: int = 1
    divisor: int = 1
    offset: int = 0

    @classmethod
    def parse(cls, text: str) -> Axis:
        found = AXIS.fullmatch(text)
        if found is None:
            raise ValueError(f'axis: expected "B", "H/4", "L*2" or "W/4-1", got {text!r}')
        name, operator, number, offset = found.groups()
        shares = {"divisor" if operator == "/" else "factor": int(number or 1)}
        return cls(name, **shares, offset=int(offset or 0))

    def size(self, of: int) -> int:
        """Rounded up, for sizes that no bucket has."""
        return -(-of * self.factor // self.divisor) + self.offset

    def named_size(self, size: int) -> int:
        """The named axis' least size that gives this one."""
        return -(-(size - self.offset) * self.divisor // self.factor)


def axis_size(axis: int | str, bucket: Bucket) -> int:
    return axis if isinstance(axis, int) else Axis.parse(axis).size(bucket[Axis.parse(axis).name])


def _fixed(spec: TensorSpec, bucket: Bucket) -> TensorSpec:
    return TensorSpec(spec.name, spec.dtype, spec.sizes(bucket), spec.pad)
