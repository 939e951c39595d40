"""What a backend offers to engines: build one bucket's graph into a folder, and load it again.

A build leaves files in the folder it is given, or none where the module itself is the plan. A load
needs nothing but that folder and, for the torch backends, the module.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from pixelis_fast.tools_trt.backends.session import HOST, Session
from pixelis_fast.tools_trt.graphs.precision import Precision
from pixelis_fast.tools_trt.graphs.spec import BucketGraph
from pixelis_fast.tools_trt.results import ToolError

Probes = Sequence[dict[str, Tensor]]


class BackendMissingError(ToolError):
    """The backend asked for cannot run here; says why and what installs it."""


class EngineBuildError(ToolError):
    """No engine came out: the graph does not convert, or no precision passed its gate."""


class PlanError(ToolError):
    """A plan's files cannot be used: damaged, foreign, or not of this machine."""


class Builder(Protocol):
    """One backend on one kind of device."""

    name: str
    device: torch.device

    def why_not(self) -> str | None:
        """Why it cannot run here although its package imports; None when it can."""
        ...

    def versions(self) -> dict[str, str]:
        """Everything whose change makes a plan stale: the backend's full version, its options."""
        ...

    def rungs(self, graph: BucketGraph) -> tuple[str, ...]:
        """Precisions worth trying here, fastest first, fp32 last."""
        ...

    def build(
        self, graph: BucketGraph, precision: Precision, *, folder: Path, probes: Probes
    ) -> None:
        """Writes the plan's files; the probes calibrate int8 and nothing else."""
        ...

    def load(
        self, graph: BucketGraph, precision: Precision, *, folder: Path, threads: int
    ) -> Session:
        """A session on the folder's plan."""
        ...


def module_of(graph: BucketGraph, backend: str) -> torch.nn.Module:
    """The fp32 module on the host, or an error where the graph is an ONNX file."""
    if graph.build is None:
        raise EngineBuildError(
            f"{graph.name}: expected a torch module for {backend}, got an ONNX file"
        )
    module = graph.build().eval()
    on_host = all(part.device == HOST for part in (*module.parameters(), *module.buffers()))
    return module if on_host else copy.deepcopy(module).to(HOST)
