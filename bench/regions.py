"""Regions: how well the classical engines segment and track objects whose outlines are known.

`segment` by box beside OpenCV's GrabCut at full size, by point beside a flood fill; `track` beside
GrabCut on the first frame and dense flow; `shrink`, which feeds them, beside OpenCV's area average.
--ablate measures other working sizes. A sample of segment or track is one object: percentiles go
over objects.

    python bench/regions.py --quick
    python bench/regions.py --ablate
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar

if __name__ == "__main__":
    import rooted  # noqa: F401

import cv2
import numpy as np

from bench.harness import (
    Check,
    Goal,
    Options,
    Report,
    Timing,
    finish,
    interleave,
    parse_options,
    progress_bar,
    rich_table,
    timed,
)
from bench.naive_tools import follow, grabcut
from bench.outputs import mask_iou
from bench.region_objects import Moving, Outlined, moving_objects, outlined_objects, photograph
from pixelis_fast.tools_trt.classical import segment as classical_segment
from pixelis_fast.tools_trt.classical import track as classical_track
from pixelis_fast.tools_trt.classical.segment import ClassicalSegment
from pixelis_fast.tools_trt.classical.track import ClassicalTrack
from pixelis_fast.tools_trt.pixels.shrink import shrink

ARMS = ("ours", "usual")
"""usual: GrabCut at full size, a flood fill, dense flow, OpenCV's area average."""
FLOOD_TOLERANCE = 20
"""Grey levels that a neighbour may differ by."""
MIN_IOU = {"by box": 0.9, "by point": 0.7, "track": 0.85}
"""Means of ours over a group. A point does not say how much of what lies under it is meant."""
MAX_SHRINK_STEP = 2.5
"""Mean grey levels between shrink and a direct area average."""
SHRUNK = (("retina.jpg", (192, 192)), ("coffee.png", (192, 128)), ("coffee.png", (96, 64)))
"""Odd and even sides, little and much smaller."""
RUNS = 5

Thing = TypeVar("Thing", Outlined, Moving)


@contextmanager
def constant(module: ModuleType, name: str, value: int) -> Iterator[None]:
    """The module with one of its constants at another value."""
    kept = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, kept)


def by_box(thing: Outlined) -> np.ndarray:
    return ClassicalSegment().segment(thing.image_HWC, box_px=thing.box_px)[0]


def by_point(thing: Outlined) -> np.ndarray:
    return ClassicalSegment().segment(thing.image_HWC, point_px=thing.point_px)[0]


def full_size_grabcut(thing: Outlined) -> np.ndarray:
    return grabcut(thing.image_HWC, thing.box_px)


def flood_fill(thing: Outlined) -> np.ndarray:
    """What is joined to the point by steps of at most the tolerance."""
    height, width = thing.mask_HW.shape
    labels = np.zeros((height + 2, width + 2), np.uint8)
    steps = (FLOOD_TOLERANCE,) * 3
    flags = 4 | cv2.FLOODFILL_MASK_ONLY
    cv2.floodFill(thing.image_HWC.copy(), labels, thing.point_px, 0, steps, steps, flags)
    return labels[1:-1, 1:-1] > 0


def our_track(thing: Moving) -> list[np.ndarray | None]:
    keys = [str(number) for number in range(len(thing.frames))]
    found = ClassicalTrack().track(thing.frames, thing.box_px, keys=keys)
    return [mask for mask, _ in found]


def usual_track(thing: Moving) -> list[np.ndarray | None]:
    return follow(thing.frames, thing.box_px)


def with_size(
    call: Callable[[Thing], Any], module: ModuleType, name: str, value: int
) -> Callable[[Thing], Any]:
    def changed(thing: Thing) -> Any:
        with constant(module, name, value):
            return call(thing)

    return changed


SEGMENT_SIZES = {
    f"{name} {value}": with_size(by_box, classical_segment, name, value)
    for name, value in (("BOX_SIDE", 96), ("BORDER_SIDE", 96), ("BORDER_SIDE", 256))
}
TRACK_SIZES = {"BORDER_SIDE 192": with_size(our_track, classical_track, "BORDER_SIDE", 192)}


def chosen(
    options: Options, arms: Mapping[str, Any], switches: Mapping[str, Any]
) -> dict[str, Any]:
    kept = {name: call for name, call in arms.items() if name in options.arms}
    return kept | dict(switches) if options.ablate else kept


def measure(
    name: str,
    things: Sequence[Thing],
    arms: Mapping[str, Callable[[Thing], Any]],
    *,
    score: Callable[[Thing, Any], float],
    tick: Callable[[str], None],
) -> list[Timing]:
    """A sample is one object; the arms take turns on it."""

    def take_next(call: Callable[[Thing], Any]) -> Callable[[], Any]:
        remaining = iter(things)
        return lambda: call(next(remaining))

    calls = {arm: take_next(call) for arm, call in arms.items()}
    samples = interleave(calls, warmup=0, runs=len(things), tick=tick)
    timings = []
    for arm, sample in samples.items():
        ious = [score(thing, found) for thing, found in zip(things, sample.results, strict=True)]
        mean, least = round(float(np.mean(ious)), 4), round(min(ious), 4)
        timings.append(timed(name, arm, sample, mean_iou=mean, min_iou=least))
    return timings


def segment_iou(thing: Outlined, mask_HW: np.ndarray) -> float:
    return mask_iou(mask_HW, thing.mask_HW)


def track_iou(thing: Moving, masks: Sequence[np.ndarray | None]) -> float:
    """Mean over frames; a frame in which the object was lost counts 0."""
    return float(np.mean([mask_iou(m, truth) for m, truth in zip(masks, thing.masks, strict=True)]))


def measure_shrink(options: Options) -> tuple[list[Timing], list[Check]]:
    timings, checks = [], []
    for name, size in SHRUNK:
        image = photograph(name)
        arms = {
            "ours": lambda image=image, size=size: shrink(image, size),
            "usual": lambda image=image, size=size: cv2.resize(
                image, size, interpolation=cv2.INTER_AREA
            ),
        }
        samples = interleave(
            chosen(options, arms, {}), warmup=2, runs=options.runs or 3 * RUNS, min_sample_ms=5.0
        )
        case = f"shrink {name} to {size[0]}x{size[1]}"
        timings += [timed(case, arm, sample) for arm, sample in samples.items()]
        if len(samples) == 2:
            ours, usual = (sample.results[-1].astype(int) for sample in samples.values())
            step = float(np.abs(ours - usual).mean())
            checks.append(Check.at_most(case, "mean grey levels apart", step, MAX_SHRINK_STEP))
    return timings, checks


def checks_of(report: Report) -> list[Check]:
    """Ours finds what is there. The usual methods are other methods: their IoU is a finding."""
    checks = []
    for timing in report.timings:
        if timing.arm == "ours" and "mean_iou" in timing.extra:
            [least] = [limit for kind, limit in MIN_IOU.items() if kind in timing.name]
            value = timing.extra["mean_iou"]
            checks.append(Check.at_least(timing.name, "mean IoU with the truth", value, least))
    return checks


def iou_table(report: Report) -> dict[str, Any]:
    timings = [timing for timing in report.timings if "mean_iou" in timing.extra]
    rows = [
        [
            timing.name,
            timing.arm,
            f"{timing.extra['mean_iou']:.3f}",
            f"{timing.extra['min_iou']:.3f}",
            f"{timing.extra['cpu_mean_ms']:.1f}",
            str(len(timing.samples_ms)),
        ]
        for timing in timings
    ]
    columns = ["case", "arm", "mean IoU", "least IoU", "processor ms", "objects"]
    return {
        "title": "IoU with the truth and mean processor time, by object",
        "columns": columns,
        "rows": rows,
    }


def small_table(report: Report) -> dict[str, Any]:
    """Processor time of what has no IoU."""
    rows = [
        [timing.name, timing.arm, f"{timing.extra['cpu_p50_ms']:.2f}"]
        for timing in report.timings
        if "mean_iou" not in timing.extra
    ]
    return {"title": "Processor p50", "columns": ["case", "arm", "ms"], "rows": rows}


def goals(report: Report) -> list[Goal]:
    """Small windows must cost no accuracy where both arms do the same: cut along a box."""
    if set(ARMS) - set(report.options.arms):
        return []
    mean: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for timing in report.timings:
        if timing.name.endswith("by box") and timing.arm in mean:
            mean[timing.arm] += [timing.extra["mean_iou"]] * len(timing.samples_ms)
    ours, usual = (round(float(np.mean(mean[arm])), 4) for arm in ARMS)
    return [Goal.at_least("mean IoU by box, at least GrabCut's at full size", usual, ours)]


def measure_objects(options: Options, report: Report) -> None:
    objects = outlined_objects(quick=options.quick)
    moving = moving_objects(quick=options.quick)
    box_arms = chosen(options, {"ours": by_box, "usual": full_size_grabcut}, SEGMENT_SIZES)
    point_arms = chosen(options, {"ours": by_point, "usual": flood_fill}, {})
    track_arms = chosen(options, {"ours": our_track, "usual": usual_track}, TRACK_SIZES)
    for arms, thing in ((box_arms, objects[0]), (point_arms, objects[0]), (track_arms, moving[-1])):
        for call in arms.values():
            # The first call of a process allocates what later ones reuse.
            call(thing)
    with progress_bar() as bar:

        def add(name: str, things: Sequence[Any], arms: Mapping[str, Any], score: Any) -> None:
            task = bar.add_task(name, total=len(things) * len(arms))
            tick = lambda _: bar.advance(task)  # noqa: E731
            report.timings += measure(name, things, arms, score=score, tick=tick)

        for group in dict.fromkeys(thing.group for thing in objects):
            members = [thing for thing in objects if thing.group == group]
            add(f"{group}, by box", members, box_arms, segment_iou)
            add(f"{group}, by point", members, point_arms, segment_iou)
            report.baseline[f"{group}, by box"] = "usual"
        for group in dict.fromkeys(thing.group for thing in moving):
            name = f"track, {group}"
            members = [thing for thing in moving if thing.group == group]
            add(name, members, track_arms, track_iou)
            report.baseline[name] = "usual"


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(__doc__, arms=ARMS, argv=argv)
    if options.device != "cpu":
        raise SystemExit(f"--device: expected cpu, the engines run there; got {options.device}")
    cv2.setNumThreads(options.threads)
    report = Report("regions", options, ours="ours", baseline={})
    measure_objects(options, report)
    report.checks += checks_of(report)
    timings, checks = measure_shrink(options)
    report.timings += timings
    report.checks += checks
    report.baseline |= dict.fromkeys((timing.name for timing in timings), "usual")
    report.goals += goals(report)
    tables = [iou_table(report), small_table(report)]
    report.tables += [rich_table(table) for table in tables]
    report.extra["tables"] = tables
    return finish(report, options)


if __name__ == "__main__":
    sys.exit(main())
