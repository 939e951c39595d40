"""What the rows say: tables of errors, memory and distance to the ceilings, and the goals.

Goals hold for one device and shape each; elsewhere there are none to miss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bench.card import gpu_name
from bench.harness import Goal, Report
from bench.loss_cases import CPU_SHAPE, CUDA_SHAPE, Shape
from bench.loss_ceilings import Ceilings
from bench.loss_row import Row, details

COLUMNS = (
    "point",
    "arm",
    "loss error",
    "dx error",
    "dW error",
    "extra MB",
    "peak MB",
    "ms",
    "cpu ms",
    "TFLOP/s",
    "% GEMM",
    "% copy",
)


def tables(rows: Sequence[Row], ceilings: Ceilings) -> list[dict[str, Any]]:
    """One per op; errors are against float64, memory beyond inputs and gradients."""
    ops = dict.fromkeys(row.point.scene.op for row in rows)
    return [_op_table(op, [r for r in rows if r.point.scene.op == op], ceilings) for op in ops]


def _op_table(op: str, rows: Sequence[Row], ceilings: Ceilings) -> dict[str, Any]:
    title = f"{op}: errors against float64, memory beyond inputs and gradients, share of ceilings"
    cells = [[_place(row), row.provider.name, *_findings(row, ceilings)] for row in rows]
    return {"title": title, "columns": list(COLUMNS), "rows": cells}


def _place(row: Row) -> str:
    return row.point.name.removeprefix(row.point.scene.op).strip()


def _findings(row: Row, ceilings: Ceilings) -> list[str]:
    errors = row.errors or (None, None, None)
    shown = ["" if error is None else f"{error:.1e}" for error in errors]
    sizes = (row.probe.extra_bytes, row.probe.peak_bytes)
    shown += ["" if size is None else f"{size / 1e6:.0f}" for size in sizes]
    for mode in ("full", "forward"):
        p50 = row.median_ms(mode)
        if p50 is not None:
            found = details(row, mode, ceilings)
            rates = (found[key] for key in ("useful_tflops", "percent_of_gemm", "percent_of_copy"))
            times = (p50, row.median_cpu_ms(mode))
            return [*shown, *(f"{ms:.4g}" for ms in times), *map(_rate, rates)]
    return [*shown, *[""] * 5]


def _rate(value: object) -> str:
    return f"{value:.3g}"


def memory_note(device: str) -> str:
    how = "peak resident memory (VmHWM)" if device == "cpu" else "the allocator's peak"
    return f"memory: {how} of one training step in a process of its own, after a warm-up"


def goals(rows: Sequence[Row], report: Report) -> Iterator[Goal]:
    if report.options.device == "cpu":
        yield from _cpu_goals(rows, report)
    elif "H100" in (gpu_name(report.options.device) or ""):
        yield from _h100_goals(rows)


def _cpu_goals(rows: Sequence[Row], report: Report) -> Iterator[Goal]:
    ratios = report.ratios()
    for dtype, target in (("bf16", 2.0), ("fp32", 1.0)):
        eager = _primary(rows, "masked_imitation", "eager", CPU_SHAPE, dtype)
        ours = _primary(rows, "masked_imitation", "ours", CPU_SHAPE, dtype)
        if eager is None or ours is None:
            continue
        ratio = ratios.get(f"{ours.point.name} full")
        if ratio is not None:
            yield Goal.at_least(f"masked_imitation {dtype} full over eager", target, ratio)
        if eager.probe.extra_bytes and ours.probe.extra_bytes is not None:
            share = round(ours.probe.extra_bytes / eager.probe.extra_bytes, 4)
            yield Goal.at_most(f"masked_imitation {dtype} extra memory over eager's", 0.125, share)


H100_MS = (
    ("masked_imitation", "forward", 15.0),
    ("masked_imitation", "full", 46.0),
    ("token_kl", "forward", 30.0),
    ("token_kl", "full", 62.0),
)
H100_EXTRA_GB = {"masked_imitation": 3.3, "token_kl": 4.2}
H100_COHERENCE_US = {8192: 60.0, 512: 15.0}


def _h100_goals(rows: Sequence[Row]) -> Iterator[Goal]:
    for op, mode, target in H100_MS:
        ours = _primary(rows, op, "ours", CUDA_SHAPE, "bf16")
        p50 = None if ours is None else ours.median_ms(mode)
        if p50 is not None:
            yield Goal.at_most(f"{op} {mode}, ms", target, round(p50, 3))
    for op, target in H100_EXTRA_GB.items():
        ours = _primary(rows, op, "ours", CUDA_SHAPE, "bf16")
        if ours is not None and ours.probe.extra_bytes is not None:
            yield Goal.at_most(f"{op} extra memory, GB", target, ours.probe.extra_bytes / 1e9)
    for steps, target in H100_COHERENCE_US.items():
        ours = _primary(rows, "coherence", "ours", Shape(steps, CUDA_SHAPE.width, 1), "bf16")
        p50 = None if ours is None else ours.median_ms("full")
        if p50 is not None:
            yield Goal.at_most(f"coherence full at {steps} steps, us", target, round(1e3 * p50, 2))


def _primary(rows: Sequence[Row], op: str, arm: str, shape: Shape, dtype: str) -> Row | None:
    """The row of an op's first point of that dtype: peaked and nothing masked."""
    for row in rows:
        scene = row.point.scene
        asked = (scene.op, row.provider.name, scene.shape, scene.dtype) == (op, arm, shape, dtype)
        if asked and row.point.mask == 0 and scene.regime not in ("uniform", "saturated"):
            return row
    return None
