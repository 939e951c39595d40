"""Which backend serves: every candidate that passes its gate is timed, the fastest wins.

The timings are remembered beside the plans under the candidates' keys, so a later start opens one
plan only; a file that is damaged is set aside and they are measured again. A backend named by the
caller is the only candidate; one that is missing is an error.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pixelis_fast.tools_trt import backends
from pixelis_fast.tools_trt.backends.builder import (
    BackendMissingError,
    Builder,
    EngineBuildError,
    PlanError,
)
from pixelis_fast.tools_trt.backends.session import Session
from pixelis_fast.tools_trt.engines.gated_build import BucketOpener, OpenedPlan
from pixelis_fast.tools_trt.engines.plans import check_owner, key_sha256, set_aside
from pixelis_fast.tools_trt.engines.report import Candidate, EngineReport
from pixelis_fast.tools_trt.graphs.file_lock import file_lock
from pixelis_fast.tools_trt.graphs.spec import Bucket

TIMED_RUNS = 5


@dataclass(frozen=True)
class Choice:
    """The backend that serves, opened on the target bucket."""

    builder: Builder
    opened: OpenedPlan
    bucket: Bucket
    report: EngineReport


def choose(
    opener: BucketOpener,
    bucket: Bucket,
    *,
    backend: str,
    device: str,
    rung: str,
    measure_again: bool,
) -> Choice:
    """The fastest candidate, or the remembered one."""
    builders, out = _builders(backend, device)
    keys = _keys(opener, bucket, builders, rung=rung, out=out)
    memory = opener.store.root / f"choice-{key_sha256({'plans': keys, 'asked': backend})[:24]}.json"
    known = None if measure_again else _remembered(memory, builders)
    if known is not None:
        winner = _fastest(known)
        opened = opener.open(bucket, builders[winner.backend], rung=rung)
        candidates = (*known, *out)
    else:
        considered = [builders[name] for name in keys]
        if backend != "auto":
            # The only candidate: its own error says more than a list of one.
            opened_by = {b.name: opener.open(bucket, b, rung=rung) for b in considered}
        else:
            opened_by = _opened(opener, bucket, considered, rung=rung, out=out)
        if not opened_by:
            tried = "; ".join(candidate.line() for candidate in out)
            raise EngineBuildError(f"{opener.spec.name}: expected a backend that passes: {tried}")
        timed = _timed(opener, bucket, opened_by)
        _remember(memory, timed)
        winner, candidates = _fastest(timed), (*timed, *out)
        opened = opened_by[winner.backend]
    report = _report(opener, bucket, winner=winner, candidates=candidates, opened=opened)
    opened.session.reason = report.reason
    return Choice(builders[winner.backend], opened, bucket, report)


def _builders(backend: str, device: str) -> tuple[dict[str, Builder], list[Candidate]]:
    """Backends to consider, and those of the device that are not here."""
    if backend != "auto":
        builder = backends.builder(backend)
        if builder.device.type != device:
            raise ValueError(
                f"backend {backend}: expected device={builder.device.type!r}, got {device!r}"
            )
        return {backend: builder}, []
    found: dict[str, Builder] = {}
    out: list[Candidate] = []
    for name, entry in backends.BACKENDS.items():
        if entry.device == device:
            try:
                found[name] = backends.builder(name)
            except BackendMissingError as error:
                out.append(Candidate(name, why_not=str(error)))
    return found, out


def _keys(
    opener: BucketOpener,
    bucket: Bucket,
    builders: Mapping[str, Builder],
    *,
    rung: str,
    out: list[Candidate],
) -> dict[str, Any]:
    """Plan keys by backend; a backend that cannot take this kind of graph is left out."""
    keys = {}
    for name, builder in builders.items():
        try:
            keys[name] = opener.key(bucket, builder, rung=rung)
        except EngineBuildError as error:
            out.append(Candidate(name, why_not=str(error)))
    return keys


def _opened(
    opener: BucketOpener,
    bucket: Bucket,
    builders: Sequence[Builder],
    *,
    rung: str,
    out: list[Candidate],
) -> dict[str, OpenedPlan]:
    """Plans by backend; a backend without one is left out with its reason."""
    opened: dict[str, OpenedPlan] = {}
    for builder in builders:
        try:
            opened[builder.name] = opener.open(bucket, builder, rung=rung)
        except (EngineBuildError, BackendMissingError) as error:
            out.append(Candidate(builder.name, why_not=str(error)))
    return opened


def _timed(
    opener: BucketOpener, bucket: Bucket, opened: Mapping[str, OpenedPlan]
) -> tuple[Candidate, ...]:
    """Runs in turns: whatever else the machine does meets all candidates alike."""
    probe = opener.spec.probes(bucket)[0]
    seconds: dict[str, list[float]] = {name: [] for name in opened}
    for _ in range(TIMED_RUNS):
        for name, plan in opened.items():
            seconds[name].append(_seconds(plan.session, probe))
    medians = {name: statistics.median(times) * 1000 for name, times in seconds.items()}
    return tuple(Candidate.of(n, plan, p50_ms=medians[n]) for n, plan in opened.items())


def _seconds(session: Session, probe: Mapping[str, torch.Tensor]) -> float:
    """The self-test has already run once: this run is warm."""
    inputs = {name: tensor.to(session.device) for name, tensor in probe.items()}
    if session.device.type == "cuda":
        torch.cuda.synchronize(session.device)
    start = time.perf_counter()
    session.run(inputs)
    if session.device.type == "cuda":
        torch.cuda.synchronize(session.device)
    return time.perf_counter() - start


def _report(
    opener: BucketOpener,
    bucket: Bucket,
    *,
    winner: Candidate,
    candidates: Sequence[Candidate],
    opened: OpenedPlan,
) -> EngineReport:
    lines = "; ".join(candidate.line() for candidate in candidates)
    return EngineReport(
        engine=opener.spec.name,
        backend=opened.session.name,
        precision=str(opened.precision),
        reason=f"fastest p50 of {TIMED_RUNS} runs: {lines}",
        device=str(opened.session.device),
        threads=opener.threads,
        bucket=dict(bucket),
        candidates=tuple(candidates),
    )


def _fastest(candidates: Sequence[Candidate]) -> Candidate:
    return min(candidates, key=lambda candidate: candidate.p50_ms or float("inf"))


def _remembered(memory: Path, builders: Mapping[str, Builder]) -> tuple[Candidate, ...] | None:
    """The candidates timed before; None where there are none that can be read."""
    with file_lock(memory.with_suffix(".lock")):
        if not memory.is_file():
            return None
        try:
            return _read(memory, builders)
        except PlanError as error:
            set_aside(memory, error)
            return None


def _read(memory: Path, builders: Mapping[str, Builder]) -> tuple[Candidate, ...]:
    """PlanError unless these are timings of backends that are considered."""
    check_owner(memory)
    try:
        known = tuple(Candidate.from_json(entry) for entry in json.loads(memory.read_text()))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PlanError(f"{memory.name}: expected timings, got {error!r}") from error
    timed = [each.backend in builders and isinstance(each.p50_ms, float) for each in known]
    if not known or not all(timed):
        expected = ", ".join(builders)
        raise PlanError(f"{memory.name}: expected timings of {expected}, got {known!r:.200}")
    return known


def _remember(memory: Path, candidates: Sequence[Candidate]) -> None:
    fresh = memory.with_suffix(f".{time.monotonic_ns()}.tmp")
    fresh.write_text(json.dumps([candidate.to_json() for candidate in candidates], indent=1))
    fresh.chmod(0o600)
    fresh.replace(memory)
