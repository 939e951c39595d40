"""PyTorch on the GPU, captured as a CUDA graph per bucket: fast with nothing to install.

A call copies its inputs into the captured buffers, replays and copies the results out. Half
precision comes from the module (`precision.at_precision`), attention from torch.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pixelis_fast.tools_trt.backends.builder import BackendMissingError, Probes, module_of
from pixelis_fast.tools_trt.backends.cuda_graph import CapturedRun
from pixelis_fast.tools_trt.backends.session import check_inputs
from pixelis_fast.tools_trt.backends.static_buffers import StaticBuffers
from pixelis_fast.tools_trt.graphs.precision import GPU_LADDER, Precision, at_precision
from pixelis_fast.tools_trt.graphs.spec import BucketGraph

NO_DEVICE = "expected a CUDA device, got none"


class GraphSession:
    """A module's forward as one replayed CUDA graph."""

    def __init__(self, module: nn.Module, graph: BucketGraph, *, name: str) -> None:
        if not torch.cuda.is_available():
            raise BackendMissingError(f"torch_graph: {NO_DEVICE}")
        self.name, self.reason = name, "asked for"
        self.device = torch.device("cuda", torch.cuda.current_device())
        self.input_names = tuple(spec.name for spec in graph.inputs)
        self.metadata: dict[str, str] = {}
        self._module = module.to(self.device).eval()
        self._buffers = StaticBuffers(graph, self.device)
        self._captured = CapturedRun(self._buffers, self._forward, device=self.device)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        check_inputs(self, inputs)
        return self._captured(inputs)

    def _forward(self, stream: int) -> None:
        """On torch's current stream, which the capture has set."""
        outputs = self._module(*self._buffers.inputs.values())
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        for buffer, output in zip(self._buffers.results.values(), outputs, strict=True):
            buffer.copy_(output)


class TorchGraphBuilder:
    """The module is the plan; the graph is captured at every load."""

    name = "torch_graph"

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", torch.cuda.current_device())

    def why_not(self) -> str | None:
        return None if torch.cuda.is_available() else NO_DEVICE

    def versions(self) -> dict[str, str]:
        return {"torch": torch.__version__, "cudnn": str(torch.backends.cudnn.version())}

    def rungs(self, graph: BucketGraph) -> tuple[str, ...]:
        return () if graph.build is None else GPU_LADDER

    def build(
        self, graph: BucketGraph, precision: Precision, *, folder: Path, probes: Probes
    ) -> None:
        module_of(graph, self.name)

    def load(
        self, graph: BucketGraph, precision: Precision, *, folder: Path, threads: int
    ) -> GraphSession:
        # A copy: the caller's own module stays where it is.
        module = copy.deepcopy(at_precision(module_of(graph, self.name), precision))
        name = "torch_graph" if precision.rung == "fp32" else f"torch_graph-{precision.rung}"
        return GraphSession(module, graph, name=name)


BUILDER = TorchGraphBuilder()
