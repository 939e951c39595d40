"""One op, measured: who can run here, what memory they take, how right they are, how fast.

An op of ours that misses a limit against float64, or does not run, gets no timing at all, nor do
its peers: there is nothing to compare. Peers' errors are findings, not failures.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from bench.harness import STDERR, Check, Report
from bench.loss_cases import Point, Scene, Shape
from bench.loss_inputs import Inputs, make_inputs, make_scene
from bench.loss_ops import BASELINE, PROVIDERS, Truth, make_truth
from bench.loss_probe import Probe, probe
from bench.loss_provider import Call, Provider, why_not
from bench.loss_row import Plan, Row, timings
from bench.loss_timing import measure
from bench.loss_truth import LIMITS, Errors, Output

HELD = ("eager", "ours")
"""Who is measured at secondary points: the two of the ratio."""


def run_op(
    op: str, points: Sequence[Point], plan: Plan, report: Report, *, tick: Callable[[str], None]
) -> list[Row]:
    """Fills the report with checks, notes and timings; returns its rows for tables and goals."""
    usable = available(op, plan, report)
    probes = probe_all(points, usable, plan, report)
    rows: list[Row] = []
    for scene, group in groupby(sorted_by_scene(points), key=lambda point: point.scene):
        if not is_wrong(op, report):
            rows += _run_scene(scene, list(group), usable, probes, plan, report, tick=tick)
    if is_wrong(op, report):
        report.notes.append(f"{op}: no times, its checks failed")
        return []
    assert isinstance(report.baseline, dict)
    for row in rows:
        report.timings += timings(row, plan)
        report.baseline |= {f"{row.point.name} {mode}": BASELINE for mode in plan.modes}
    return rows


def is_wrong(op: str, report: Report) -> bool:
    return any(check.case.split()[0] == op for check in report.failed)


def sorted_by_scene(points: Sequence[Point]) -> list[Point]:
    order = list(dict.fromkeys(point.scene for point in points))
    return sorted(points, key=lambda point: order.index(point.scene))


def available(op: str, plan: Plan, report: Report) -> list[Provider]:
    """Those asked for; who cannot run here is a note, and an error where it is ours."""
    found = []
    for each in PROVIDERS[op]:
        if each.name not in plan.arms:
            continue
        reason = why_not(each, plan.device)
        if plan.quick and each.compiles and not plan.is_cuda:
            reason = "left out by --quick on a CPU, its build takes longer than the run"
        if reason is None:
            found.append(each)
            if each.note:
                report.notes.append(f"{op} {each.name}: {each.note}")
        elif each.is_ours:
            report.checks.append(Check(op, f"{each.name} runs", reason, "runs", passed=False))
        else:
            report.notes.append(f"{op} {each.name}: {reason}")
    return found


def probe_all(
    points: Sequence[Point], usable: list[Provider], plan: Plan, report: Report
) -> dict[tuple[Scene, str], Probe]:
    """Each provider once per dtype and shape, alone; who fails is dropped with its reason.

    --quick asks for one dtype, on a CPU of the two of the ratio."""
    scenes: dict[tuple[str, Shape], Scene] = {}
    for point in points:
        scenes.setdefault((point.scene.dtype, point.scene.shape), point.scene)
    found: dict[tuple[Scene, str], Probe] = {}
    for scene in list(scenes.values())[: 1 if plan.quick else None]:
        for each in list(usable):
            if plan.quick and not plan.is_cuda and each.name not in HELD:
                continue
            STDERR.print(f"{scene.name}: {each.name} alone", style="dim", markup=False)
            one = probe(scene, each.name, device=plan.device, threads=plan.threads)
            found[scene, each.name] = one
            if one.failure is None:
                continue
            usable.remove(each)
            if each.is_ours:
                check = f"{each.name} runs"
                report.checks.append(Check(scene.name, check, one.failure, "runs", passed=False))
            else:
                report.notes.append(f"{scene.name} {each.name}: failed: {one.failure}")
    return found


def _run_scene(
    scene: Scene,
    points: list[Point],
    usable: list[Provider],
    probes: dict[tuple[Scene, str], Probe],
    plan: Plan,
    report: Report,
    *,
    tick: Callable[[str], None],
) -> list[Row]:
    tensors = make_scene(scene, device=plan.device)
    truth = make_truth(scene.op, tensors)
    report.notes.append(f"{scene.name}: {truth.summary()}")
    rows = []
    for point in points:
        chosen = usable if point.primary else [each for each in usable if each.name in HELD]
        at_point = [
            Row(point, each, probe=probes.get((scene, each.name), Probe())) for each in chosen
        ]
        run_point(at_point, tensors, truth, plan, report, tick=tick)
        rows += at_point
    return rows


def run_point(
    rows: list[Row],
    tensors: dict[str, Tensor],
    truth: Truth,
    plan: Plan,
    report: Report,
    *,
    tick: Callable[[str], None],
) -> None:
    """Compares, checks, and times if ours is right."""
    point = rows[0].point
    inputs = make_inputs(point, tensors)
    calls = {row.provider.name: row.provider.open(inputs) for row in rows}
    for row in rows:
        call = calls[row.provider.name]
        if row.provider.compiles or plan.is_cuda:
            warm_forward(call)
        row.errors = compare(call, row.provider, inputs, truth)
        if row.provider.is_ours:
            report.checks += list(checks(row))
    if is_wrong(point.scene.op, report):
        return
    samples = measure(
        calls,
        inputs,
        modes=plan.modes,
        rounds=plan.rounds(point),
        device=plan.device,
        tick=tick,
    )
    for row in rows:
        row.samples = samples[row.provider.name]
    release(inputs)


def warm_forward(call: Call) -> None:
    """What is built or tuned for a forward without gradient; the comparison does the rest."""
    with torch.no_grad():
        call()


def compare(call: Call, provider: Provider, inputs: Inputs, truth: Truth) -> Errors:
    inputs.clear()
    output: Output = call()
    if inputs.leaves:
        output.loss.backward()
    found = truth.errors(provider.task, inputs, output)
    inputs.clear()
    return found


def checks(row: Row) -> Iterator[Check]:
    assert row.errors is not None
    limits = LIMITS[row.point.scene.op, row.point.scene.dtype]
    for name, limit, value in zip(Errors._fields, limits, row.errors, strict=True):
        if limit is not None:
            what = f"{row.provider.name} {name} error against float64"
            shown = float("nan") if value is None else value
            yield Check.at_most(row.point.name, what, shown, limit)


def release(inputs: Inputs) -> None:
    inputs.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
