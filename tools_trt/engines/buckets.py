"""Inputs into buckets and back: which bucket holds them, filling up, cutting, counting waste.

The smallest bucket (by the product of its sizes) that holds every named axis wins.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from pixelis_fast.tools_trt.graphs.spec import Axis, Bucket, EngineSpec, TensorSpec, bucket_label


class BucketUse:
    """How often each bucket ran, and how much of it was filling."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}
        self.values = self.padded_values = 0
        self._lock = threading.Lock()

    @property
    def waste(self) -> float:
        """Share of all input values that were filling."""
        return self.padded_values / self.values if self.values else 0.0

    def count(self, spec: EngineSpec, sizes: Bucket, bucket: Bucket) -> None:
        real, whole = (
            sum(math.prod(tensor.sizes(of)) for tensor in spec.inputs) for of in (sizes, bucket)
        )
        label = bucket_label(bucket)
        with self._lock:
            self.calls[label] = self.calls.get(label, 0) + 1
            self.values += whole
            self.padded_values += whole - real


def named_sizes(spec: EngineSpec, inputs: Mapping[str, Tensor]) -> dict[str, int]:
    """The size of each named axis; ValueError where the inputs are not the spec's."""
    if set(inputs) != {tensor.name for tensor in spec.inputs}:
        expected = ", ".join(tensor.name for tensor in spec.inputs)
        raise ValueError(f"{spec.name}: expected the inputs {expected}, got {', '.join(inputs)}")
    sizes: dict[str, int] = {}
    for tensor in spec.inputs:
        _read_sizes(spec, tensor, inputs[tensor.name], sizes=sizes)
    return sizes


def fitting(spec: EngineSpec, sizes: Bucket) -> Bucket:
    """The smallest bucket that holds the sizes."""
    fits = [bucket for bucket in spec.buckets if _holds(spec, bucket, sizes)]
    if not fits:
        largest = ", ".join(str(dict(bucket)) for bucket in spec.buckets)
        exact = f" with {sorted(spec.exact_axes)} exact" if spec.exact_axes else ""
        raise ValueError(
            f"{spec.name}: expected sizes within a bucket of {largest}{exact}, got {dict(sizes)}"
        )
    return min(fits, key=lambda bucket: math.prod(bucket.values()))


def fill(spec: EngineSpec, inputs: Mapping[str, Tensor], bucket: Bucket) -> dict[str, Tensor]:
    """Inputs of the bucket's shapes: each filled behind its end with its own value."""
    return {
        tensor.name: _filled(inputs[tensor.name], tensor.sizes(bucket), tensor.pad)
        for tensor in spec.inputs
    }


def cut(spec: EngineSpec, outputs: Mapping[str, Tensor], sizes: Bucket) -> dict[str, Tensor]:
    """Outputs without what belongs to the filling."""
    return {
        tensor.name: outputs[tensor.name][tuple(slice(n) for n in tensor.sizes(sizes))]
        for tensor in spec.outputs
    }


def _read_sizes(
    spec: EngineSpec, tensor: TensorSpec, given: Tensor, *, sizes: dict[str, int]
) -> None:
    if given.dtype != tensor.dtype or given.ndim != len(tensor.shape):
        raise ValueError(
            f"{spec.name}: expected {tensor.name} as {tensor.dtype} of shape {tensor.shape}, got "
            f"{given.dtype} of {tuple(given.shape)}"
        )
    for axis, size in zip(tensor.shape, given.shape, strict=True):
        if isinstance(axis, int):
            expected: int = axis
            size_here = size
        else:
            named = Axis.parse(axis)
            size_here = named.named_size(size)
            expected = sizes.setdefault(named.name, size_here)
        if size_here != expected or size < 1:
            raise ValueError(
                f"{spec.name}: expected {expected} for {axis} of {tensor.name}, got {size_here}"
            )


def _holds(spec: EngineSpec, bucket: Bucket, sizes: Bucket) -> bool:
    return all(
        bucket[axis] == size if axis in spec.exact_axes else bucket[axis] >= size
        for axis, size in sizes.items()
    )


def _filled(given: Tensor, shape: tuple[int, ...], value: float) -> Tensor:
    missing = [size - there for size, there in zip(shape, given.shape, strict=True)]
    if not any(missing):
        return given
    # functional.pad counts from the last axis, a pair (before, after) each.
    pairs = [n for after in reversed(missing) for n in (0, after)]
    return functional.pad(given, pairs, value=value)
