"""Fixed device tensors for a static graph: what CUDA graphs and bound engines read and write.

`fill` copies a call's inputs in, `outputs` copies the results out, so what a caller holds is never
overwritten by the next call.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pixelis_fast.tools_trt.graphs.spec import BucketGraph


class StaticBuffers:
    """One tensor per input and output, at addresses that do not change."""

    def __init__(self, graph: BucketGraph, device: torch.device) -> None:
        self.inputs, self.results = (
            {s.name: torch.zeros(graph.shape_of(s), dtype=s.dtype, device=device) for s in specs}
            for specs in (graph.inputs, graph.outputs)
        )

    def fill(self, inputs: Mapping[str, Tensor]) -> None:
        """ValueError where a shape or a type is not the buffer's: copying would broadcast it."""
        for name, buffer in self.inputs.items():
            given = inputs[name]
            if (given.shape, given.dtype) != (buffer.shape, buffer.dtype):
                raise ValueError(
                    f"{name}: expected {tuple(buffer.shape)} {buffer.dtype}, got "
                    f"{tuple(given.shape)} {given.dtype}"
                )
            buffer.copy_(given, non_blocking=True)

    def outputs(self) -> dict[str, Tensor]:
        return {name: buffer.clone() for name, buffer in self.results.items()}
