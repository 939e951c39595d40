"""The work behind the build command: specs in, one row of figures per graph and bucket out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pixelis_fast.tools_trt import backends
from pixelis_fast.tools_trt.engines.engine import Engine, open_engine
from pixelis_fast.tools_trt.engines.gated_build import OpenedPlan
from pixelis_fast.tools_trt.engines.report import EngineReport
from pixelis_fast.tools_trt.graphs.gates import GateReport
from pixelis_fast.tools_trt.graphs.spec import Bucket, EngineSpec, bucket_label
from pixelis_fast.tools_trt.results import ToolError


class VerifyError(ToolError):
    """A finished plan, loaded again, no longer passes its gate."""


@dataclass(frozen=True)
class Row:
    """One bucket's engine."""

    engine: str
    bucket: str
    backend: str
    precision: str
    p50_ms: float
    plan_bytes: int
    build_seconds: float
    state: str
    gate: GateReport
    closest: str
    """The check that came closest to its bound."""
    notes: tuple[str, ...]
    report: EngineReport

    @property
    def graph(self) -> str:
        """The engine's name without its model."""
        return self.engine.rpartition("/")[2]

    def to_json(self) -> dict[str, Any]:
        parts = {"gate": self.gate.to_json(), "report": self.report.to_json()}
        return {**asdict(self), "notes": list(self.notes), **parts}


def build_rows(
    specs: Sequence[EngineSpec],
    *,
    backend: str,
    precision: str,
    device: str,
    threads: int | None,
    plan_dir: Path,
    all_buckets: bool,
    verify: bool,
    say: Callable[[str], None],
) -> list[Row]:
    """Every spec on its target bucket, or on all of them."""
    rows = []
    for spec in specs:
        say(f"{spec.name}: building")
        engine = open_engine(
            spec,
            backend=backend,
            precision=precision,
            device=device,
            threads=threads,
            plan_dir=plan_dir,
            measure_again=True,
        )
        for bucket in spec.buckets if all_buckets else spec.buckets[:1]:
            rows.append(_row(engine, bucket, verify=verify))
    return rows


def closest_check(report: GateReport) -> str:
    """The check with the least room to its bound, by share of the bound's distance to perfect."""
    checks = [result for result in report.results if result.metric != "finite"]
    if not checks:
        return "all finite"
    closest = min(checks, key=lambda result: result.room)
    return f"{closest.output} {closest.metric} {closest.value:.5g}"


def _row(engine: Engine, bucket: Bucket, *, verify: bool) -> Row:
    opened = engine.opened(bucket)
    probe = engine.spec.probes(bucket)[0]
    inputs = {name: tensor.to(engine.device) for name, tensor in probe.items()}
    gate = engine.verify(bucket) if verify else opened.gate
    if not gate.passed:
        raise VerifyError(f"{engine.spec.name}: loaded again, {gate.failures()}")
    return Row(
        engine=engine.spec.name,
        bucket=bucket_label(bucket),
        backend=opened.session.name,
        precision=str(opened.precision),
        p50_ms=backends.p50_ms(opened.session, inputs),
        plan_bytes=opened.plan.num_bytes,
        build_seconds=opened.plan.build_seconds,
        state=f"{opened.plan.found}, verified" if verify else opened.plan.found,
        gate=gate,
        closest=closest_check(gate),
        notes=_notes(engine, opened),
        report=engine.report,
    )


def _notes(engine: Engine, opened: OpenedPlan) -> tuple[str, ...]:
    """Where the plan came from, its islands, what failed, and all candidates' times."""
    islands = [f"fp32 islands: {', '.join(opened.precision.islands)}"]
    failed = [f"{entry.precision} failed: {entry.reason}" for entry in opened.rejected]
    notes = [f"plan {opened.plan.found}", *(islands if opened.precision.islands else ()), *failed]
    return (*notes, engine.report.reason)
