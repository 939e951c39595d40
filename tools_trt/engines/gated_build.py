"""One bucket on one backend: the ladder of precisions, climbed down until a gate passes.

A rung is built, loaded, run on the probes and compared with the fp32 reference. What fails is kept
with its figures. fp16 gets a second try with the islands that bisection finds. A finished plan
carries samples of its outputs, which every later load must reproduce.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pixelis_fast.tools_trt import backends
from pixelis_fast.tools_trt.backends.builder import (
    Builder,
    EngineBuildError,
    PlanError,
    module_of,
)
from pixelis_fast.tools_trt.backends.onnx_graphs import SENSITIVE_OPERATORS
from pixelis_fast.tools_trt.backends.session import HOST, Session
from pixelis_fast.tools_trt.backends.torch_cpu import TorchSession
from pixelis_fast.tools_trt.engines.plan_keys import plan_key
from pixelis_fast.tools_trt.engines.plans import Plan, PlanStore
from pixelis_fast.tools_trt.graphs.gates import GateReport
from pixelis_fast.tools_trt.graphs.precision import Precision, at_precision, find_islands
from pixelis_fast.tools_trt.graphs.spec import Bucket, BucketGraph, EngineSpec

SAMPLES_FILE = "self_test.safetensors"
NUM_SAMPLES = 4096
SELF_TEST_ERROR = 0.01
"""Root mean square of the difference over that of the samples: above rounding between numbers of
threads, far below damage."""
ONNX_REFERENCE = "openvino"
Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class Rejected:
    """A precision that was tried and does not serve."""

    precision: str
    reason: str


@dataclass(frozen=True)
class OpenedPlan:
    """A bucket ready to run."""

    session: Session
    precision: Precision
    gate: GateReport
    rejected: tuple[Rejected, ...]
    plan: Plan


class BucketOpener:
    """Opens buckets of one spec; the fp32 reference of a bucket is computed once per device.

    Example:
        opened = BucketOpener(spec, store, threads=1).open(bucket, builder, rung="auto")
    """

    def __init__(self, spec: EngineSpec, store: PlanStore, *, threads: int) -> None:
        self.spec, self.store, self.threads = spec, store, threads
        self._references: dict[tuple[str, str], tuple[list[Outputs], list[Outputs]]] = {}

    def key(self, bucket: Bucket, builder: Builder, *, rung: str) -> dict[str, Any]:
        rungs = self.rungs(bucket, builder, rung=rung)
        return plan_key(self.spec, bucket, builder=builder, rungs=rungs, threads=self.threads)

    def rungs(self, bucket: Bucket, builder: Builder, *, rung: str) -> tuple[str, ...]:
        """The one asked for, or the backend's ladder."""
        if rung != "auto":
            return (Precision(rung).rung,)
        rungs = builder.rungs(self.spec.at(bucket))
        if not rungs:
            raise EngineBuildError(f"{self.spec.name}: {builder.name} runs no ONNX files")
        return rungs

    def open(self, bucket: Bucket, builder: Builder, *, rung: str) -> OpenedPlan:
        """The cached plan, or a new one. EngineBuildError where no precision passes."""
        graph = self.spec.at(bucket)
        rungs = self.rungs(bucket, builder, rung=rung)

        def build(folder: Path) -> Mapping[str, Any]:
            return self._climb(graph, bucket, builder=builder, rungs=rungs, folder=folder)

        def load(plan: Plan) -> Session:
            session = self._load(graph, builder, _precision(plan), folder=plan.folder)
            self_test(session, self.spec.probes(bucket)[0], plan.folder / SAMPLES_FILE)
            return session

        session, plan = self.store.obtain(
            self.key(bucket, builder, rung=rung),
            name=f"{graph.name}-{builder.name}",
            build=build,
            load=load,
        )
        rejected = tuple(Rejected(**fields) for fields in plan.facts["rejected"])
        gate = GateReport.from_json(plan.facts["gate"])
        return OpenedPlan(session, _precision(plan), gate, rejected, plan)

    def verify(self, bucket: Bucket, builder: Builder, *, rung: str) -> GateReport:
        """The gate's figures for the plan as it lies on disk now."""
        session = self.open(bucket, builder, rung=rung).session
        probes, reference = self._reference(self.spec.at(bucket), bucket, builder.device)
        return self.spec.gate.compare(reference, [session.run(probe) for probe in probes])

    def forget_references(self) -> None:
        """Frees what only building needs."""
        self._references.clear()

    def _climb(
        self,
        graph: BucketGraph,
        bucket: Bucket,
        *,
        builder: Builder,
        rungs: Sequence[str],
        folder: Path,
    ) -> Mapping[str, Any]:
        rejected: list[Rejected] = []
        probes, reference = self._reference(graph, bucket, builder.device)
        waiting = [Precision(rung) for rung in rungs]
        while waiting:
            precision = waiting.pop(0)
            try:
                report, samples = self._try(
                    graph,
                    precision,
                    builder=builder,
                    folder=folder,
                    probes=probes,
                    reference=reference,
                )
            except (EngineBuildError, PlanError) as error:
                rejected.append(Rejected(str(precision), str(error)))
            else:
                if report.passed:
                    save_file(samples, folder / SAMPLES_FILE)
                    return _facts(precision, report, rejected)
                rejected.append(Rejected(str(precision), report.failures()))
                waiting = self._with_islands(graph, precision, builder, probes, reference) + waiting
            _empty(folder)
        tried = "; ".join(f"{entry.precision}: {entry.reason}" for entry in rejected)
        raise EngineBuildError(f"{graph.name} on {builder.name}: no precision passed: {tried}")

    def _try(
        self,
        graph: BucketGraph,
        precision: Precision,
        *,
        builder: Builder,
        folder: Path,
        probes: list[Outputs],
        reference: list[Outputs],
    ) -> tuple[GateReport, Outputs]:
        builder.build(graph, precision, folder=folder, probes=probes)
        session = self._load(graph, builder, precision, folder=folder)
        outputs = [session.run(probe) for probe in probes]
        return self.spec.gate.compare(reference, outputs), samples_of(outputs[0])

    def _load(
        self, graph: BucketGraph, builder: Builder, precision: Precision, *, folder: Path
    ) -> Session:
        return builder.load(graph, precision, folder=folder, threads=self.threads)

    def _with_islands(
        self,
        graph: BucketGraph,
        failed: Precision,
        builder: Builder,
        probes: list[Outputs],
        reference: list[Outputs],
    ) -> list[Precision]:
        """fp16's second try: islands that make the module pass in torch on the same device."""
        if failed.rung != "fp16" or failed.islands:
            return []
        if graph.build is None:
            return [Precision("fp16", SENSITIVE_OPERATORS)]
        module = _on(module_of(graph, "bisection"), builder.device)

        def passes(islands: tuple[str, ...]) -> bool:
            lowered = at_precision(module, Precision("fp16", islands))
            outputs = _run(lowered, graph, probes)
            return self.spec.gate.compare(reference, outputs).passed

        islands = find_islands(module, lambda: _run(module, graph, probes[:1]), passes)
        return [Precision("fp16", islands)] if islands else []

    def _reference(
        self, graph: BucketGraph, bucket: Bucket, device: torch.device
    ) -> tuple[list[Outputs], list[Outputs]]:
        """Probes on the device, and what the graph gives for them in fp32."""
        key = (graph.name, str(device))
        if key not in self._references:
            probes = [_moved(probe, device) for probe in self.spec.probes(bucket)]
            if graph.build is None:
                outputs = self._onnx_reference(graph, probes)
            else:
                outputs = _run(_on(module_of(graph, "the reference"), device), graph, probes)
            self._references[key] = probes, outputs
        return self._references[key]

    def _onnx_reference(self, graph: BucketGraph, probes: list[Outputs]) -> list[Outputs]:
        """The file in fp32 on a CPU."""
        fp32, reader = Precision("fp32"), backends.builder(ONNX_REFERENCE)
        with tempfile.TemporaryDirectory(dir=self.store.root) as folder:
            reader.build(graph, fp32, folder=Path(folder), probes=probes)
            session = self._load(graph, reader, fp32, folder=Path(folder))
            return [session.run(_moved(probe, HOST)) for probe in probes]


def self_test(session: Session, probe: Outputs, samples_file: Path) -> None:
    """PlanError unless the session gives what it gave when it was built."""
    outputs = samples_of(session.run(_moved(probe, session.device)))
    for name, expected in load_file(samples_file).items():
        error = (outputs[name] - expected).pow(2).mean().sqrt()
        scale = expected.pow(2).mean().sqrt()
        if not bool(error <= SELF_TEST_ERROR * scale):
            raise PlanError(
                f"{session.name}: self-test expected {name} within {SELF_TEST_ERROR:g} of "
                f"{float(scale):g}, got a difference of {float(error):g}"
            )


def samples_of(outputs: Outputs) -> Outputs:
    """At most NUM_SAMPLES values of each output, evenly spread."""
    samples = {}
    for name, output in outputs.items():
        flat = output.flatten()
        samples[name] = flat[:: max(1, flat.numel() // NUM_SAMPLES)][:NUM_SAMPLES].float().cpu()
    return {name: sample.clone() for name, sample in samples.items()}


def _run(module: nn.Module, graph: BucketGraph, probes: Sequence[Outputs]) -> list[Outputs]:
    session = TorchSession(
        module,
        input_names=[spec.name for spec in graph.inputs],
        output_names=[spec.name for spec in graph.outputs],
        device=next(iter(probes[0].values())).device,
    )
    # TF32 keeps ten bits of a product: fp32 by name only.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return [session.run(probe) for probe in probes]


def _facts(
    precision: Precision, report: GateReport, rejected: Sequence[Rejected]
) -> Mapping[str, Any]:
    return {
        "precision": {"rung": precision.rung, "islands": list(precision.islands)},
        "gate": report.to_json(),
        "rejected": [vars(entry) for entry in rejected],
    }


def _precision(plan: Plan) -> Precision:
    facts = plan.facts["precision"]
    return Precision(facts["rung"], tuple(facts["islands"]))


def _on(module: nn.Module, device: torch.device) -> nn.Module:
    """The module where it is on the host, a copy elsewhere."""
    return module if device == HOST else copy.deepcopy(module).to(device)


def _moved(probe: Outputs, device: torch.device) -> Outputs:
    return {name: tensor.to(device) for name, tensor in probe.items()}


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
