"""Reading: how many characters come out wrong and how long it takes, by the reader's settings.

Our defaults beside rapidocr's rules in our code (same weights, same backend) and the rapidocr
package itself (ONNX Runtime), over drawn and photographed text with known transcripts. --ablate
undoes one setting of ours at a time. A sample is one picture, read once: percentiles go over
pictures. Wrong characters are Levenshtein edits, spaces left out;
every arm's lines are put in order by the same rule.

    python bench/text.py --quick
    python bench/text.py --ablate
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

if __name__ == "__main__":
    import rooted  # noqa: F401

import cv2
import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from rapidocr import RapidOCR

from bench.flags import listed
from bench.harness import (
    Check,
    Goal,
    Options,
    Report,
    Samples,
    Timing,
    finish,
    interleave,
    parse_options,
    progress_bar,
    rich_table,
    timed,
)
from bench.text_lines import turned_lines
from bench.text_pictures import TextPicture, letters, text_pictures
from pixelis_fast.tools_trt.backends import open_session
from pixelis_fast.tools_trt.ocr.detector import DetectorConfig, to_planes
from pixelis_fast.tools_trt.ocr.order import reading_order
from pixelis_fast.tools_trt.ocr.recognizer import RecognizerConfig
from pixelis_fast.tools_trt.ocr.weights import DETECTOR, text_weights
from pixelis_fast.tools_trt.read_text import ReadText, ReadTextConfig
from pixelis_fast.tools_trt.store import MediaStore

RULES = "rapidocr's rules"
ARMS = ("ours", RULES, "rapidocr")
MAX_ERROR = 0.1
"""Of any arm over all groups: every arm reads, none is broken."""
MAX_OUR_ERROR = 0.05
"""Of ours in each group."""
MIN_RATIO = 2.0
DETECTOR_RUNS = 5
DETECTOR_SIZE = (736, 1472)
"""A page of 2:1 as rapidocr's rule enlarges it."""

OURS = ReadTextConfig()
UNBOUNDED = DetectorConfig(max_enlargement=None, max_enlarged_px=None)
ORACLE = ReadTextConfig(
    detector=UNBOUNDED,
    recognizer=RecognizerConfig(batch_size=6, min_width=320, width_step=None),
    trusted_score=None,
)
SWITCHES: dict[str, ReadTextConfig] = {
    "enlarged without bound": replace(OURS, detector=UNBOUNDED),
    "at most twice, any size": replace(OURS, detector=DetectorConfig(max_enlarged_px=None)),
    "never enlarged": replace(OURS, detector=DetectorConfig(max_enlargement=1.0)),
    "angle classifier": replace(OURS, trusted_score=None),
    "rules, both ways up": replace(ORACLE, trusted_score=OURS.trusted_score),
    "batches of six": replace(OURS, recognizer=RecognizerConfig(batch_size=6, width_step=None)),
    "width 320": replace(OURS, recognizer=RecognizerConfig(min_width=320)),
    "width 128": replace(OURS, recognizer=RecognizerConfig(min_width=128)),
}
"""Our defaults but for one thing; "rules, both ways up" is rapidocr's rules but for one."""
ONNX_RUNTIME = "ONNX Runtime"

Arms = Mapping[str, Callable[[TextPicture], str]]
"""Reads one picture: its letters in reading order."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--groups", default="", help="comma list of groups of pictures; all")


def open_arms(options: Options, pictures: Sequence[TextPicture]) -> dict[str, Any]:
    configs = {"ours": OURS, RULES: ORACLE}
    chosen = {name: config for name, config in configs.items() if name in options.arms}
    if options.ablate:
        chosen |= SWITCHES
    store = MediaStore()
    ids = {picture.name: store.add_image(picture.image_HWC).id for picture in pictures}
    arms = {name: our_arm(store, ids, config, options) for name, config in chosen.items()}
    if options.ablate:
        arms[ONNX_RUNTIME] = our_arm(store, ids, OURS, options, backend="ort")
    if "rapidocr" in options.arms:
        arms["rapidocr"] = rapidocr_arm(options.threads)
    for read in arms.values():
        # The first call of a process allocates what later ones reuse.
        read(pictures[0])
    return arms


def our_arm(
    store: MediaStore,
    ids: Mapping[str, str],
    config: ReadTextConfig,
    options: Options,
    *,
    backend: str = "openvino",
) -> Callable[[TextPicture], str]:
    reader = ReadText(store, backend=backend, threads=options.threads, config=config)
    return lambda picture: letters([line.text for line in reader(ids[picture.name]).lines])


def rapidocr_arm(threads: int) -> Callable[[TextPicture], str]:
    """The package as it is configured on its own, its log silenced, on as many threads as ours."""
    params: dict[str, Any] = {"Global.log_level": "critical"}
    for key in ("intra_op_num_threads", "inter_op_num_threads"):
        params[f"EngineConfig.onnxruntime.{key}"] = threads
    read = RapidOCR(params=params)

    def read_picture(picture: TextPicture) -> str:
        found = read(np.ascontiguousarray(picture.image_HWC[..., ::-1]))
        if found.boxes is None:
            return ""
        return letters([found.txts[n] for n in reading_order(list(found.boxes))])

    return read_picture


def measure_group(
    group: str, pictures: Sequence[TextPicture], arms: Arms, *, tick: Callable[[str], None]
) -> list[Timing]:
    """A sample is one picture, its shape new to most arms; the arms take turns on it."""

    def read_next(read: Callable[[TextPicture], str]) -> Callable[[], str]:
        remaining = iter(pictures)
        return lambda: read(next(remaining))

    calls = {name: read_next(read) for name, read in arms.items()}
    samples = interleave(calls, warmup=0, runs=len(pictures), tick=tick)
    return [scored(group, pictures, name, sample) for name, sample in samples.items()]


def scored(group: str, pictures: Sequence[TextPicture], arm: str, sample: Samples) -> Timing:
    wrong = [errors(p, text) for p, text in zip(pictures, sample.results, strict=True)]
    return timed(
        group,
        arm,
        sample,
        characters=sum(len(picture.letters) for picture in pictures),
        wrong=sum(wrong),
        misread={p.name: n for p, n in zip(pictures, wrong, strict=True) if n},
    )


def errors(picture: TextPicture, read: str) -> int:
    return Levenshtein.distance(read, picture.letters)


def measure_backends(options: Options, *, tick: Callable[[str], None]) -> list[Timing]:
    """The detector alone on one picture, on each backend."""
    height, width = DETECTOR_SIZE
    [page] = [p for p in text_pictures(quick=False) if p.name == "page.png x 1.0"]
    pixels_1CHW = to_planes(cv2.resize(page.image_HWC, (width, height)))
    path = text_weights(DETECTOR)
    sessions = {
        name: open_session(path, backend=backend, threads=options.threads)
        for name, backend in (("ours", "openvino"), (ONNX_RUNTIME, "ort"))
    }

    def run(name: str) -> Callable[[], np.ndarray]:
        session = sessions[name]
        inputs = {session.input_names[0]: torch.from_numpy(pixels_1CHW)}
        return lambda: next(iter(session.run(inputs).values())).numpy()

    samples = interleave(
        {name: run(name) for name in sessions}, warmup=1, runs=DETECTOR_RUNS, tick=tick
    )
    maps = [sample.results[-1] for sample in samples.values()]
    apart = float(np.abs(maps[0] - maps[1]).max())
    name = f"detector at {height}x{width}"
    return [timed(name, arm, sample, largest_difference=apart) for arm, sample in samples.items()]


def checks_of(report: Report) -> list[Check]:
    """Every arm reads; ours reads almost everything; both backends compute the same map."""
    checks, read = [], readings(report)
    for arm, timings in read.items():
        share = wrong_share(timings)
        checks.append(Check.at_most("all", f"{arm}: share of wrong characters", share, MAX_ERROR))
    for timing in read.get("ours", []):
        share = wrong_share([timing])
        checks.append(Check.at_most(timing.name, "share of wrong characters", share, MAX_OUR_ERROR))
    for timing in report.timings:
        if timing.arm == "ours" and "largest_difference" in timing.extra:
            apart = timing.extra["largest_difference"]
            checks.append(Check.at_most(timing.name, "largest difference of the maps", apart, 1e-2))
    return checks


def readings(report: Report) -> dict[str, list[Timing]]:
    """By arm, one per group of pictures."""
    found: dict[str, list[Timing]] = {}
    for timing in report.timings:
        if "wrong" in timing.extra:
            found.setdefault(timing.arm, []).append(timing)
    return found


def wrong_share(timings: Sequence[Timing]) -> float:
    wrong = sum(timing.extra["wrong"] for timing in timings)
    return wrong / sum(timing.extra["characters"] for timing in timings)


def reading_table(report: Report) -> dict[str, Any]:
    """Per arm: wrong characters by group and in all, and mean processor time per picture."""
    read, rows = readings(report), []
    for arm, timings in read.items():
        wrong = [timing.extra["wrong"] for timing in timings]
        rows.append([arm, *map(str, wrong), str(sum(wrong)), f"{mean_cpu_ms(timings):.0f}"])
    first = next(iter(read.values()))
    characters = sum(timing.extra["characters"] for timing in first)
    pictures = sum(len(timing.samples_ms) for timing in first)
    title = f"Wrong of {characters} characters on {pictures} pictures; processor ms per picture"
    groups = [timing.name for timing in first]
    return {"title": title, "columns": ["arm", *groups, "wrong", "ms"], "rows": rows}


def mean_cpu_ms(timings: Sequence[Timing]) -> float:
    """Per picture over several groups."""
    pictures = [len(timing.samples_ms) for timing in timings]
    return float(np.average([t.extra["cpu_mean_ms"] for t in timings], weights=pictures))


def goals(report: Report) -> list[Goal]:
    """Against rapidocr's rules in our code, so that neither backend nor language plays a part."""
    if not {"ours", RULES} <= set(report.options.arms):
        return []
    read = readings(report)
    wrong = {arm: sum(timing.extra["wrong"] for timing in read[arm]) for arm in ("ours", RULES)}
    ratios = [ratio for name, ratio in report.ratios().items() if report.baseline_of(name) == RULES]
    mean = round(statistics.geometric_mean(ratios), 3) if ratios else None
    return [
        Goal.at_most("wrong characters, at most those of the rules", wrong[RULES], wrong["ours"]),
        Goal.at_least("geometric mean of ratios over the rules", MIN_RATIO, mean),
    ]


def chosen_groups(pictures: Sequence[TextPicture], names: str) -> dict[str, list[TextPicture]]:
    groups: dict[str, list[TextPicture]] = {}
    for picture in pictures:
        groups.setdefault(picture.group, []).append(picture)
    wanted = listed(names) or tuple(groups)
    if unknown := sorted(set(wanted) - set(groups)):
        raise SystemExit(f"--groups: expected some of {', '.join(groups)}, got {unknown}")
    return {name: groups[name] for name in wanted}


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(__doc__, arms=ARMS, add=add_flags, argv=argv)
    if options.runs is not None:
        raise SystemExit("--runs: expected none, a sample is a picture and each is read once")
    if options.device != "cpu":
        raise SystemExit(f"--device: expected cpu, the reader runs there; got {options.device}")
    if options.ablate and "ours" not in options.arms:
        raise SystemExit("--ablate: expected ours among --arms, every switch is against it")
    cv2.setNumThreads(options.threads)
    report = Report("text", options, ours="ours", baseline={})
    groups = chosen_groups(text_pictures(quick=options.quick), options.extra.groups)
    with progress_bar() as bar:
        arms = open_arms(options, [picture for group in groups.values() for picture in group])
        for group, pictures in groups.items():
            task = bar.add_task(group, total=len(pictures) * len(arms))
            tick = lambda _, task=task: bar.advance(task)  # noqa: E731
            report.timings += measure_group(group, pictures, arms, tick=tick)
            report.baseline[group] = RULES
        tables = [reading_table(report)]
        if options.ablate:
            timings = measure_backends(options, tick=lambda _: None)
            report.timings += timings
            report.baseline[timings[0].name] = ONNX_RUNTIME
            every_third = [p for group in groups.values() for p in group[::3]]
            tables.append(turned_lines(every_third, threads=options.threads))
    report.checks += checks_of(report)
    report.goals += goals(report)
    report.tables += [rich_table(table) for table in tables]
    report.extra["tables"] = tables
    return finish(report, options)


if __name__ == "__main__":
    sys.exit(main())
