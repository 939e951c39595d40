"""Engines: a spec's graph on the fastest backend whose precision passes the gate.

`open_engine` builds (or finds) a plan on every backend the machine has, times those that pass on
the target bucket in turns, and keeps the fastest; the choice is remembered beside the plans.
`Engine.run` picks the smallest bucket that holds the inputs, fills them up and cuts the outputs
back. Knows neither tools nor pictures.

Example:
    engine = open_engine(spec)
    outputs = engine.run({"pixels": pixels_B3SS})
    print(engine.report.backend, engine.report.reason)
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pixelis_fast.tools_trt.engines.buckets import BucketUse, cut, fill, fitting, named_sizes
from pixelis_fast.tools_trt.engines.choice import Choice, choose
from pixelis_fast.tools_trt.engines.gated_build import BucketOpener, OpenedPlan
from pixelis_fast.tools_trt.engines.plans import PlanStore
from pixelis_fast.tools_trt.engines.report import EngineReport
from pixelis_fast.tools_trt.graphs.gates import GateReport
from pixelis_fast.tools_trt.graphs.spec import Bucket, EngineSpec, TensorSpec, bucket_label

__all__ = ["Engine", "EngineReport", "EngineSpec", "TensorSpec", "open_engine"]


class Engine:
    """An opened spec; usable wherever a `Session` is. Buckets open at their first use."""

    def __init__(
        self, spec: EngineSpec, opener: BucketOpener, *, choice: Choice, rung: str
    ) -> None:
        self.spec, self.report = spec, choice.report
        self.name, self.reason = choice.report.backend, choice.report.reason
        self.device = choice.builder.device
        self.input_names = tuple(tensor.name for tensor in spec.inputs)
        self.metadata: dict[str, str] = dict(choice.opened.session.metadata)
        self.use = BucketUse()
        self._opener, self._rung, self._builder = opener, rung, choice.builder
        self._opened = {bucket_label(choice.bucket): choice.opened}
        self._opening = threading.Lock()

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Any sizes up to the largest bucket; ValueError beyond it."""
        sizes = named_sizes(self.spec, inputs)
        bucket = fitting(self.spec, sizes)
        session = self.opened(bucket).session
        if dict(bucket) == sizes:
            outputs = session.run(inputs)
        else:
            outputs = session.run(fill(self.spec, inputs, bucket))
            outputs = cut(self.spec, outputs, sizes)
        self.use.count(self.spec, sizes, bucket)
        return outputs

    def warm(self) -> None:
        """Opens every bucket now."""
        for bucket in self.spec.buckets:
            self.opened(bucket)

    def opened(self, bucket: Bucket) -> OpenedPlan:
        """The bucket's plan: precision, gate, session."""
        label = bucket_label(bucket)
        # Without the lock: a bucket that is being built must not hold up the others.
        if label in self._opened:
            return self._opened[label]
        with self._opening:
            if label not in self._opened:
                self._opened[label] = self._opener.open(bucket, self._builder, rung=self._rung)
                self._opener.forget_references()
            return self._opened[label]

    def verify(self, bucket: Bucket) -> GateReport:
        """Loads the bucket's plan from its files once more and gates what it gives."""
        try:
            return self._opener.verify(bucket, self._builder, rung=self._rung)
        finally:
            self._opener.forget_references()

    def precisions(self) -> dict[str, str]:
        """By bucket opened so far: each passed its own gate."""
        return {label: str(opened.precision) for label, opened in self._opened.items()}


def open_engine(
    spec: EngineSpec,
    *,
    backend: str = "auto",
    precision: str = "auto",
    device: str = "cpu",
    threads: int | None = None,
    plan_dir: str | Path | None = None,
    bucket: Bucket | None = None,
    measure_again: bool = False,
) -> Engine:
    """The spec on the fastest backend that passes, or on the one named.

    "auto" considers every backend of the device; a name considers that one and fails where it is
    missing. `precision` "auto" tries the backend's ladder, a name that precision alone. The choice
    is measured on `bucket`, the first by default; `threads` are torch's by default.
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device: expected cpu or cuda, got {device!r}")
    threads = torch.get_num_threads() if threads is None else threads
    if threads < 1:
        raise ValueError(f"threads: expected at least 1, got {threads}")
    target = _target(spec, bucket)
    store = PlanStore(None if plan_dir is None else Path(plan_dir))
    opener = BucketOpener(spec, store, threads=threads)
    choice = choose(
        opener,
        target,
        backend=backend,
        device=device,
        rung=precision,
        measure_again=measure_again,
    )
    opener.forget_references()
    return Engine(spec, opener, choice=choice, rung=precision)


def _target(spec: EngineSpec, bucket: Bucket | None) -> Bucket:
    if bucket is None:
        return spec.buckets[0]
    if bucket not in spec.buckets:
        raise ValueError(f"bucket: expected one of {list(spec.buckets)}, got {dict(bucket)}")
    return bucket
