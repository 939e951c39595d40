"""Two pictures: medians as bars, and every arm against the two measured ceilings (a roofline)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.loss_ceilings import Ceilings
from bench.loss_row import Row, details

OURS_COLOR, PEER_COLOR = "tab:green", "tab:gray"


def draw_bars(rows: Sequence[Row], path: Path, *, title: str) -> None:
    """Full steps at primary points, one bar per arm; for an op without gradient its forward."""
    pyplot = _pyplot()
    shown = [(row, mode) for row in rows if row.point.primary and (mode := _whole_mode(row))]
    bars = [(row, row.median_ms(mode)) for row, mode in shown]
    figure, axes = pyplot.subplots(figsize=(11, 1.4 + 0.3 * len(bars)))
    colors = [OURS_COLOR if row.provider.is_ours else PEER_COLOR for row, _ in bars]
    drawn = axes.barh(range(len(bars)), [ms for _, ms in bars], color=colors)
    axes.bar_label(drawn, [f" {ms:.4g}" for _, ms in bars], fontsize=7)
    labels = [f"{row.point.name}  {row.provider.name}" for row, _ in bars]
    axes.set_yticks(range(len(bars)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds, median, forward and backward")
    _save(figure, axes, path, title=title)


def draw_roofline(rows: Sequence[Row], ceilings: Ceilings, path: Path, *, title: str) -> None:
    """x: useful FLOP per byte that must move; y: useful TFLOP/s."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(9, 6))
    placed = [(row, _place(row, ceilings)) for row in rows if row.point.primary]
    found = [(row, place) for row, place in placed if place is not None]
    low = min((x for _, (x, _) in found), default=1.0) / 3
    high = max((x for _, (x, _) in found), default=1e3) * 3
    for dtype in ceilings.products_tflops:
        peak, bandwidth = ceilings.gemm_tflops(dtype), ceilings.copy_gb_per_s / 1e3
        ridge = peak / bandwidth
        corners = sorted({low, min(max(ridge, low), high), high})
        roof = [min(peak, bandwidth * x) for x in corners]
        axes.plot(corners, roof, label=f"ceilings, {dtype}: {peak:.3g} TFLOP/s", linewidth=1)
    for row, (x, y) in found:
        mark, color = ("*", OURS_COLOR) if row.provider.is_ours else ("o", PEER_COLOR)
        axes.plot([x], [y], mark, color=color, markersize=7)
        axes.annotate(f"{row.point.scene.op} {row.point.scene.dtype} {row.provider.name}",
                      (x, y), fontsize=6, xytext=(4, 2), textcoords="offset points")  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("useful FLOP per byte that must move")
    axes.set_ylabel("useful TFLOP/s")
    axes.legend(fontsize=7, loc="lower right")
    _save(figure, axes, path, title=title)


def _whole_mode(row: Row) -> str | None:
    """Forward and backward, for an op without gradient its forward; None where nothing ran."""
    return next((mode for mode in ("full", "forward") if row.spans(mode)), None)


def _place(row: Row, ceilings: Ceilings) -> tuple[float, float] | None:
    mode = _whole_mode(row)
    if mode is None:
        return None
    found = details(row, mode, ceilings)
    return found["flops_per_byte"], found["useful_tflops"]


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text: small and searchable
    matplotlib.rcParams["svg.hashsalt"] = "kernels"  # the same rows give the same file
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, axes: Any, path: Path, *, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    _pyplot().close(figure)
