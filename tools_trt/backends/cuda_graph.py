"""A recorded sequence of GPU work over static buffers: capture once, replay per call.

All calls meet on one stream of its own, under a lock: one thread's inputs never reach another's
replay. What a caller gets are copies.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pixelis_fast.tools_trt.backends.static_buffers import StaticBuffers

WARMUP_RUNS = 3
"""Lazy initialisation must not be captured."""


class CapturedRun:
    """`enqueue` puts the work on a stream; it reads and writes the buffers alone."""

    def __init__(
        self, buffers: StaticBuffers, enqueue: Callable[[int], None], *, device: torch.device
    ) -> None:
        self._buffers, self._device = buffers, device
        self._stream = torch.cuda.Stream(device)
        self._turn = threading.Lock()
        self._graph = torch.cuda.CUDAGraph()
        self._capture(enqueue)

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        callers = torch.cuda.current_stream(self._device)
        with self._turn, torch.cuda.stream(self._stream):
            self._stream.wait_stream(callers)
            self._buffers.fill(inputs)
            self._graph.replay()
            outputs = self._buffers.outputs()
        callers.wait_stream(self._stream)
        for tensor in inputs.values():
            tensor.record_stream(self._stream)
        for tensor in outputs.values():
            tensor.record_stream(callers)
        return outputs

    def _capture(self, enqueue: Callable[[int], None]) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.no_grad(), torch.cuda.stream(self._stream):
            for _ in range(WARMUP_RUNS):
                enqueue(self._stream.cuda_stream)
            self._stream.synchronize()
            with torch.cuda.graph(self._graph, stream=self._stream):
                enqueue(self._stream.cuda_stream)
        torch.cuda.synchronize(self._device)
