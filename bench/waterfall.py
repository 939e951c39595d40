"""A picture of where the time goes: one stacked bar per case and arm, stages in chain order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

STAGES = (
    "transport",
    "prompt",
    "vision",
    "prefill",
    "decode",
    "sample",
    "parse",
    "tool.zoom",
    "tool.segment",
    "tool.track",
    "tool.read_text",
    "tool.localize",
    "tool.properties",
    "other",
)
"""In the order they are drawn and listed; a tool's queue, pre, run and post are one bar."""


def stage_group(stage: str) -> str:
    """tool.zoom.pre -> tool.zoom; an unknown stage is other."""
    group = ".".join(stage.split(".")[:2])
    return group if group in STAGES else "other"


def grouped(stage_ms: Mapping[str, float], total_ms: float) -> dict[str, float]:
    """Milliseconds by group; what no stage claims is other."""
    groups = dict.fromkeys(STAGES, 0.0)
    for stage, milliseconds in stage_ms.items():
        groups[stage_group(stage)] += milliseconds
    groups["other"] += max(total_ms - sum(stage_ms.values()), 0.0)
    return groups


def draw(rows: Sequence[tuple[str, Mapping[str, float], float]], path: Path, *, title: str) -> None:
    """rows: (label, stage_ms, total_ms), first on top."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(11, 1.4 + 0.42 * len(rows)))
    colors = pyplot.get_cmap("tab20")
    left = [0.0] * len(rows)
    groups = [grouped(stage_ms, total_ms) for _, stage_ms, total_ms in rows]
    for index, stage in enumerate(STAGES):
        widths = [group[stage] / 1e3 for group in groups]
        if any(widths):
            axes.barh(range(len(rows)), widths, left=left, label=stage, color=colors(index))
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    axes.invert_yaxis()
    axes.set_xlabel("seconds, median run")
    axes.set_title(title, loc="left", fontsize=10)
    axes.legend(fontsize=7, ncols=2, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
