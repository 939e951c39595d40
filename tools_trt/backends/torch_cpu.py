"""PyTorch on the CPU: a module as a session, computing in fp32 or bf16.

Inputs and outputs are fp32 either way; what each weight is kept in is decided by
`precision.at_precision`. There is nothing to build, so this backend serves every graph that comes
as a module. Threads are the process's (`torch.set_num_threads`).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from pixelis_fast.tools_trt.backends.builder import BackendMissingError, Probes, module_of
from pixelis_fast.tools_trt.backends.session import HOST, check_inputs
from pixelis_fast.tools_trt.graphs.device_identity import has_bf16_units
from pixelis_fast.tools_trt.graphs.precision import Precision, at_precision
from pixelis_fast.tools_trt.graphs.spec import BucketGraph


class TorchSession:
    """A module's forward under names: inputs by its argument names, outputs by `output_names`.

    Example:
        session = TorchSession(encoder, output_names=("fine", "middle", "coarse"))
        fine = session.run({"pixels_B3SS": pixels})["fine"]
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        output_names: Sequence[str],
        input_names: Sequence[str] | None = None,
        device: torch.device = HOST,
        name: str = "torch_cpu",
        reason: str = "asked for",
    ) -> None:
        self.name, self.reason, self.device = name, reason, device
        self.input_names = tuple(input_names or inspect.signature(module.forward).parameters)
        self.metadata: dict[str, str] = {}
        self._output_names = tuple(output_names)
        self._module = module.to(device).eval()

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        check_inputs(self, inputs)
        # no_grad instead of inference mode: the caller may go on computing with what it gets.
        with torch.no_grad():
            outputs = self._module(*(inputs[name] for name in self.input_names))
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        return dict(zip(self._output_names, outputs, strict=True))


class TorchCpuBuilder:
    """The module is the plan."""

    name = "torch_cpu"
    device = HOST

    def why_not(self) -> str | None:
        return None

    def versions(self) -> dict[str, str]:
        return {"torch": torch.__version__}

    def rungs(self, graph: BucketGraph) -> tuple[str, ...]:
        if graph.build is None:
            return ()
        return ("bf16", "fp32") if has_bf16_units() else ("fp32",)

    def build(
        self, graph: BucketGraph, precision: Precision, *, folder: Path, probes: Probes
    ) -> None:
        module_of(graph, self.name)

    def load(
        self, graph: BucketGraph, precision: Precision, *, folder: Path, threads: int
    ) -> TorchSession:
        if threads != torch.get_num_threads():
            raise BackendMissingError(
                f"torch_cpu: expected threads={torch.get_num_threads()}, the process's number, "
                f"got {threads}"
            )
        return TorchSession(
            at_precision(module_of(graph, self.name), precision),
            input_names=[spec.name for spec in graph.inputs],
            output_names=[spec.name for spec in graph.outputs],
            name="torch_cpu" if precision.rung == "fp32" else f"torch_cpu-{precision.rung}",
        )


BUILDER = TorchCpuBuilder()
