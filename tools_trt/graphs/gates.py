"""Accuracy gates: may an engine serve in this precision?

A gate compares a candidate's outputs with the fp32 reference's on probe inputs. Every output must
be finite; checks bound a metric of one output. The report keeps the figures of passed and failed
checks alike and travels as JSON. Probes that cannot fail a check are an error: a mask metric needs
a reference mask that is neither empty nor full, a text metric at least one character.

Shapes: B = items, C = channels, h, w = mask, T = columns, V = classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pixelis_fast.tools_trt.graphs.gate_metrics import METRICS, enlarged

Outputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Check:
    """A bound on a metric of one output.

    Example:
        Check("masks", "mask_iou_mean", 0.995)
    """

    output: str
    metric: str
    """One of `gate_metrics.METRICS`, which also knows whether the bound is a floor or a ceiling."""
    bound: float
    threshold: float = 0.0
    """What a mask metric counts as inside: values above this."""
    scale: int = 1
    """Pixels of the input per step of a mask: it is enlarged by this before it is measured."""

    def __post_init__(self) -> None:
        if self.scale < 1:
            raise ValueError(f"scale: expected at least 1, got {self.scale}")
        if self.metric not in METRICS:
            raise ValueError(f"metric: expected one of {', '.join(METRICS)}, got {self.metric!r}")


@dataclass(frozen=True)
class CheckResult:
    output: str
    metric: str
    bound: float
    value: float
    passed: bool

    @property
    def room(self) -> float:
        """1 at a perfect value, 0 at the bound, negative beyond it."""
        perfect = 1.0 if METRICS[self.metric].is_floor else 0.0
        return (self.value - self.bound) / (perfect - self.bound)

    def __str__(self) -> str:
        sign = ">=" if METRICS[self.metric].is_floor else "<="
        return f"{self.output} {self.metric} {self.value:.6g} (expected {sign} {self.bound:g})"


@dataclass(frozen=True)
class GateReport:
    """The figures of one gate on one candidate; `dataclasses.asdict` of it is JSON."""

    results: tuple[CheckResult, ...]
    num_probes: int

    @property
    def passed(self) -> bool:
        return all(result.passed for result in self.results)

    def failures(self) -> str:
        return "; ".join(str(result) for result in self.results if not result.passed)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"passed": self.passed}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> GateReport:
        results = tuple(CheckResult(**result) for result in document["results"])
        return cls(results, document["num_probes"])


@dataclass(frozen=True)
class Gate:
    """Checks an engine must pass before it serves.

    Example:
        Gate((*mask_checks("masks"), *embedding_checks("pointers")))
    """

    checks: tuple[Check, ...]

    def check_outputs(self, names: Iterable[str]) -> None:
        """ValueError where a check names an output the graph does not have."""
        known = list(names)
        for check in self.checks:
            if check.output not in known:
                raise ValueError(
                    f"gate: expected an output of {', '.join(known)}, got {check.output}"
                )

    def compare(self, reference: Sequence[Outputs], candidate: Sequence[Outputs]) -> GateReport:
        """One mapping of outputs per probe, in the same order on both sides."""
        if not reference or len(reference) != len(candidate):
            raise ValueError(
                f"gate: expected as many probes on both sides and at least one, got "
                f"{len(reference)} and {len(candidate)}"
            )
        finite = [_finite(name, candidate) for name in reference[0]]
        if not all(result.passed for result in finite):
            return GateReport(tuple(finite), len(reference))
        results = [_result(check, reference, candidate) for check in self.checks]
        return GateReport((*finite, *results), len(reference))


def mask_checks(output: str, *, threshold: float = 0.0, scale: int = 1) -> tuple[Check, ...]:
    """Masks keep their area and, within a pixel of the input, their box."""
    return (
        Check(output, "mask_iou_mean", 0.995, threshold),
        Check(output, "mask_iou_p01", 0.97, threshold),
        Check(output, "box_px", 1.0, threshold, scale),
    )


def embedding_checks(*outputs: str) -> tuple[Check, ...]:
    return tuple(Check(output, "cosine", 0.999) for output in outputs)


def text_checks(output: str) -> tuple[Check, ...]:
    """The best class per column, and the characters read from it."""
    return (Check(output, "ctc_argmax", 0.999), Check(output, "cer_change", 0.002))


def score_checks(*outputs: str) -> tuple[Check, ...]:
    """Scores between 0 and 1, such as predicted IoUs."""
    return tuple(Check(output, "max_abs", 0.01) for output in outputs)


def _finite(name: str, candidate: Sequence[Outputs]) -> CheckResult:
    pairs = [(outputs[name], outputs[name]) for outputs in candidate]
    value = METRICS["finite"].measure(pairs, 0.0)
    return CheckResult(name, "finite", 1.0, value, value == 1.0)


def _result(
    check: Check, reference: Sequence[Outputs], candidate: Sequence[Outputs]
) -> CheckResult:
    metric = METRICS[check.metric]
    pairs = [
        (
            enlarged(r[check.output].float(), check.scale),
            enlarged(c[check.output].float().to(r[check.output].device), check.scale),
        )
        for r, c in zip(reference, candidate, strict=True)
    ]
    value = metric.measure(pairs, check.threshold)
    passed = value >= check.bound if metric.is_floor else value <= check.bound
    return CheckResult(check.output, check.metric, check.bound, value, passed)
