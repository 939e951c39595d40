"""Engines beside each other on objects with known outlines: IoU and processor time per call.

Knows no engine and no scene: whatever has a picture, a mask and prompts can be compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from rich.table import Table

from pixelis_fast.tools_trt.classical.grabcut import PxBox
from pixelis_fast.tools_trt.segment import SegmentEngine
from pixelis_fast.tools_trt.track import TrackEngine


class Still(Protocol):
    """An object with a known outline in a picture."""

    @property
    def group(self) -> str: ...
    @property
    def image_HWC(self) -> np.ndarray: ...  # noqa: N802
    @property
    def mask_HW(self) -> np.ndarray: ...  # noqa: N802
    @property
    def box_px(self) -> PxBox: ...
    @property
    def point_px(self) -> tuple[int, int]: ...


class Going(Protocol):
    """An object with a known outline in every frame."""

    @property
    def group(self) -> str: ...
    @property
    def frames(self) -> list[np.ndarray]: ...
    @property
    def masks(self) -> list[np.ndarray]: ...
    @property
    def box_px(self) -> PxBox: ...


@dataclass(frozen=True)
class Row:
    """One engine on one group of objects."""

    case: str
    engine: str
    mean_iou: float
    median_iou: float
    least_iou: float
    cpu_ms: float
    """Median processor time of a call; of a track, by frame."""
    objects: int


def compare(things: Sequence[Still], engines: dict[str, SegmentEngine]) -> list[Row]:
    """Every engine by box and by point, group by group."""
    rows = []
    for group in dict.fromkeys(thing.group for thing in things):
        members = [thing for thing in things if thing.group == group]
        for name, engine in engines.items():

            def by_box(thing: Still, engine: SegmentEngine = engine) -> np.ndarray:
                return engine.segment(thing.image_HWC, box_px=thing.box_px)[0]

            def by_point(thing: Still, engine: SegmentEngine = engine) -> np.ndarray:
                return engine.segment(thing.image_HWC, point_px=thing.point_px)[0]

            rows.append(measured(f"{group}, by box", name, members, by_box, still_iou))
            rows.append(measured(f"{group}, by point", name, members, by_point, still_iou))
    return sorted(rows, key=lambda row: row.case)


def compare_tracks(things: Sequence[Going], engines: dict[str, TrackEngine]) -> list[Row]:
    rows = []
    for group in dict.fromkeys(thing.group for thing in things):
        members = [thing for thing in things if thing.group == group]
        for name, engine in engines.items():

            def follow(thing: Going, engine: TrackEngine = engine) -> list[np.ndarray | None]:
                keys = [f"{id(thing)}:{number}" for number in range(len(thing.frames))]
                return [m for m, _ in engine.track(thing.frames, thing.box_px, keys=keys)]

            frames = len(members[0].frames)
            rows.append(measured(f"track, {group}", name, members, follow, track_iou, parts=frames))
    return sorted(rows, key=lambda row: row.case)


def measured(
    case: str,
    engine: str,
    things: Sequence[Any],
    call: Callable[[Any], Any],
    score: Callable[..., float],
    *,
    parts: int = 1,
) -> Row:
    ious, times_ms = [], []
    for thing in things:
        begun = time.process_time()
        found = call(thing)
        times_ms.append(1e3 * (time.process_time() - begun) / parts)
        ious.append(score(thing, found))
    return Row(
        case,
        engine,
        round(float(np.mean(ious)), 4),
        round(float(np.median(ious)), 4),
        round(min(ious), 4),
        round(float(np.median(times_ms)), 2),
        len(things),
    )


def still_iou(thing: Still, mask_HW: np.ndarray) -> float:
    return iou(mask_HW, thing.mask_HW)


def track_iou(thing: Going, masks: Sequence[np.ndarray | None]) -> float:
    """Mean over the frames in which the object is seen; lost counts 0."""
    pairs = zip(masks, thing.masks, strict=True)
    return float(np.mean([iou(mask, truth) for mask, truth in pairs if truth.any()]))


def iou(mask: np.ndarray | None, truth: np.ndarray) -> float:
    if mask is None:
        return 0.0
    return float((mask & truth).sum() / max(int((mask | truth).sum()), 1))


def table_of(rows: Sequence[Row], title: str) -> Table:
    table = Table(title=title)
    for column in ("case", "engine", "mean IoU", "median", "least", "processor ms", "objects"):
        table.add_column(column)
    for row in rows:
        ious = (f"{value:.3f}" for value in (row.mean_iou, row.median_iou, row.least_iou))
        table.add_row(row.case, row.engine, *ious, f"{row.cpu_ms:.1f}", str(row.objects))
    return table
