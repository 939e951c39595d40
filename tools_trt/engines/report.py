"""What an engine tells about itself: who serves, why, how fast each candidate was, what failed.

Plain data that travels as JSON; knows no backend.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pixelis_fast.tools_trt.engines.gated_build import OpenedPlan, Rejected
from pixelis_fast.tools_trt.graphs.gates import GateReport


@dataclass(frozen=True)
class Candidate:
    """One backend on the target bucket; `why_not` where it cannot serve."""

    backend: str
    why_not: str | None = None
    precision: str | None = None
    p50_ms: float | None = None
    gate: GateReport | None = None
    rejected: tuple[Rejected, ...] = ()
    plan: str | None = None
    """ "built", "cached", or why an earlier plan was set aside."""
    plan_bytes: int = 0
    build_seconds: float = 0.0

    @classmethod
    def of(cls, backend: str, opened: OpenedPlan, *, p50_ms: float) -> Candidate:
        return cls(
            backend,
            precision=str(opened.precision),
            p50_ms=p50_ms,
            gate=opened.gate,
            rejected=opened.rejected,
            plan=opened.plan.found,
            plan_bytes=opened.plan.num_bytes,
            build_seconds=opened.plan.build_seconds,
        )

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Candidate:
        gate = document["gate"]
        parsed = {
            "gate": None if gate is None else GateReport.from_json(gate),
            "rejected": tuple(Rejected(**entry) for entry in document["rejected"]),
        }
        return cls(**{**document, **parsed})

    def to_json(self) -> dict[str, Any]:
        gate = None if self.gate is None else self.gate.to_json()
        return {**dataclasses.asdict(self), "gate": gate}

    def line(self) -> str:
        """For a reason: "openvino bf16 12.0 ms", or why not."""
        if self.p50_ms is None:
            return f"{self.backend} out: {self.why_not}"
        return f"{self.backend} {self.precision} {self.p50_ms:.1f} ms"


@dataclass(frozen=True)
class EngineReport:
    """The outcome of opening an engine."""

    engine: str
    backend: str
    """The effective one, with its precision: "openvino-bf16"."""
    precision: str
    reason: str
    device: str
    threads: int
    bucket: Mapping[str, int]
    candidates: tuple[Candidate, ...]

    def to_json(self) -> dict[str, Any]:
        candidates = [candidate.to_json() for candidate in self.candidates]
        return {**dataclasses.asdict(self), "bucket": dict(self.bucket), "candidates": candidates}
