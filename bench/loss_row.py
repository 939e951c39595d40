"""What a run asks of every op, and what it learns of one provider at one point.

A `Row` becomes timings of the report, one per mode, with errors, memory and its distance to the
ceilings beside them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.harness import Timing
from bench.loss_cases import Point, useful_work
from bench.loss_ceilings import Ceilings
from bench.loss_probe import Probe
from bench.loss_provider import Provider
from bench.loss_timing import Rounds, Span, Split
from bench.loss_truth import Errors


@dataclass(frozen=True)
class Plan:
    """What one run of the benchmark asks of every op."""

    arms: tuple[str, ...]
    modes: tuple[str, ...]
    device: str
    threads: int
    quick: bool
    runs: int | None
    ceilings: Ceilings

    @property
    def is_cuda(self) -> bool:
        return self.device.startswith("cuda")

    def rounds(self, point: Point) -> Rounds:
        """50 samples on a GPU; on a CPU what the time allows, two or three at least."""
        if self.runs is not None:
            return Rounds(0, self.runs, self.runs)
        if self.is_cuda:
            return Rounds(0, 10, 10) if self.quick else Rounds(0, 50, 50)
        if self.quick:
            return Rounds(3, 2, 25)
        return Rounds(45, 3, 50) if point.primary else Rounds(10, 2, 50)


@dataclass
class Row:
    """What is known of one provider at one point."""

    point: Point
    provider: Provider
    errors: Errors | None = None
    probe: Probe = field(default_factory=Probe)
    samples: list[Split] = field(default_factory=list)

    def spans(self, mode: str) -> list[Span]:
        return [span for split in self.samples if (span := split.of_mode(mode)) is not None]

    def median_ms(self, mode: str) -> float | None:
        spans = self.spans(mode)
        return float(np.median([span.ms for span in spans])) if spans else None

    def median_cpu_ms(self, mode: str) -> float:
        """Processor time of this process, which a busy machine does not stretch."""
        return float(np.median([span.cpu_ms for span in self.spans(mode)]))


def timings(row: Row, plan: Plan) -> list[Timing]:
    found = []
    for mode in plan.modes:
        spans = row.spans(mode)
        if spans:
            extra = details(row, mode, plan.ceilings)
            extra["cpu_p50_ms"] = round(row.median_cpu_ms(mode), 4)
            samples_ms = tuple(span.ms for span in spans)
            found.append(Timing(f"{row.point.name} {mode}", row.provider.name, samples_ms, extra))
    return found


def details(row: Row, mode: str, ceilings: Ceilings) -> dict[str, Any]:
    """More keys of the JSON case, for a mode that has samples."""
    p50_ms = row.median_ms(mode)
    assert p50_ms is not None
    scene, work = row.point.scene, useful_work(row.point, mode)
    tflops, gb_per_s = work.flops / p50_ms / 1e9, work.bytes / p50_ms / 1e6
    errors = row.errors or Errors(float("nan"))
    return {
        "op": scene.op,
        "mode": mode,
        "dtype": scene.dtype,
        "regime": scene.regime,
        "mask_ratio": row.point.mask,
        "task": row.provider.task,
        "useful_tflops": _digits(tflops),
        "percent_of_gemm": _digits(100 * tflops / ceilings.gemm_tflops(scene.dtype)),
        "useful_gb_per_s": _digits(gb_per_s),
        "percent_of_copy": _digits(100 * gb_per_s / ceilings.copy_gb_per_s),
        "flops_per_byte": _digits(work.flops / work.bytes),
        "loss_error": errors.loss,
        "gradient_error": errors.gradient,
        "weight_gradient_error": errors.weight_gradient,
        "extra_bytes": row.probe.extra_bytes,
        "peak_bytes": row.probe.peak_bytes,
    }


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
