"""Tools beside what people assemble today: sam2, EasyOCR, rapidocr and Pillow on the same media.

Encoding a picture, a second click on a known one, a track of 16 frames, pages of text, a chain of
six calls, alone and as the eight rollouts of one question, and calls by four clients at once.
Models are loaded and engines built before anything is timed; every arm has the same threads.

    python bench/tools.py --quick
    python bench/tools.py --cases encode,text --record
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    import rooted  # noqa: F401

    # sam2 draws a progress bar per call; ours is enough. Nothing here may fetch weights.
    os.environ.update(TQDM_DISABLE="1", HF_HUB_OFFLINE="1")

import cv2
import numpy as np
from rapidocr import RapidOCR

from bench.flags import listed
from bench.harness import (
    Goal,
    Options,
    Report,
    finish,
    interleave,
    parse_options,
    progress_bar,
    rich_table,
    timed,
)
from bench.naive_sam2 import NaiveSam2, shared_weights
from bench.naive_tools import NaiveTools, open_reader
from bench.region_objects import photograph
from bench.scenes import scene
from bench.soak import MEMO_BYTES, Soak, open_toolset
from bench.soak_calls import add_media, draw_calls
from bench.text_pictures import PAGE, dense_page, pixels
from bench.tool_cases import Case, encode_case, second_click_case, text_case, track_case
from bench.tool_chain import chain_case
from pixelis_fast.tools_trt.read_text import EasyOcrConfig, ReadText
from pixelis_fast.tools_trt.sam2.engines import compile_sam2
from pixelis_fast.tools_trt.sam2.network import Sam2
from pixelis_fast.tools_trt.sam2.segment import Sam2Segment
from pixelis_fast.tools_trt.sam2.track import Sam2Track
from pixelis_fast.tools_trt.store import MediaStore
from pixelis_fast.tools_trt.toolset import Toolset

ARMS = ("usual", "ours")
CASES = ("encode", "track", "text", "chain", "load")
SIDE, VIDEO_SIDE, QUICK_SIDE = 1024, 512, 256
"""Of pictures and of videos; --quick takes one for both."""
PICTURE_GRAPHS = ("encoder", "decoder")
ALL_GRAPHS = (*PICTURE_GRAPHS, "memory_encoder", "memory_attention")
SIBLINGS = 8
CLIENTS, CALLS, QUICK_CALLS = 4, 600, 80
EASYOCR_TARGET, RAPIDOCR_TARGET, MANY_LINES_TARGET = 4.0, 1.0, 1.5
CHAIN_TARGET = 10.0


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cases", default=",".join(CASES), help=f"comma list of {CASES}")
    parser.add_argument("--engine", default="auto", help="SAM 2's backend: auto, openvino, …")


class Bench:
    """Opens what the chosen cases need, once."""

    def __init__(self, options: Options, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.engines: dict[str, dict[str, str]] = {}
        """By SAM2's side and graph: what runs it, and why."""
        self._sam2: dict[int, tuple[Sam2, NaiveSam2]] = {}
        self._easyocr: Any = None

    def cases(self, names: Sequence[str]) -> Iterator[Case]:
        quick = self.options.quick
        side, video_side = (QUICK_SIDE, QUICK_SIDE) if quick else (SIDE, VIDEO_SIDE)
        if "encode" in names:
            yield encode_case(*self.sam2(side, graphs=PICTURE_GRAPHS))
            yield second_click_case(*self.sam2(side, graphs=PICTURE_GRAPHS))
        if "track" in names:
            yield track_case(*self.sam2(video_side), runs=2 if quick else 3)
        if "text" in names:
            yield from self.text_cases()
        if "chain" in names:
            yield self.chain(video_side, siblings=1)
            if not quick:
                yield self.chain(video_side, siblings=SIBLINGS)

    def sam2(self, side: int, *, graphs: Sequence[str] = ALL_GRAPHS) -> tuple[Sam2, NaiveSam2]:
        """Ours on engines and the package, with the same weights."""
        if side not in self._sam2:
            weights = shared_weights(self.folder, side=side)
            ours = Sam2.load(weights, side=side)
            self._sam2[side] = ours, NaiveSam2(weights, device="cpu", side=side)
        ours, naive = self._sam2[side]
        if missing := set(graphs) - set(ours.compiled):
            threads, backend = self.options.threads, self.options.extra.engine
            engines = compile_sam2(ours, backend=backend, threads=threads, graphs=missing)
            told = {graph: f"{each.name}: {each.reason}" for graph, each in engines.items()}
            self.engines.setdefault(str(side), {}).update(told)
        return ours, naive

    def easyocr(self) -> Any:
        if self._easyocr is None:
            self._easyocr = open_reader("cpu")
        return self._easyocr

    def text_cases(self) -> Iterator[Case]:
        store, threads = MediaStore(), self.options.threads
        like_easyocr = ReadText(
            store,
            backend="openvino",
            threads=threads,
            config=EasyOcrConfig(precision="auto"),
            detection_bytes=0,
        )
        ours = ReadText(store, backend="openvino", threads=threads, detection_bytes=0)
        easyocr, rapidocr = partial(read_with_easyocr, self.easyocr()), open_rapidocr(threads)
        for name, (image_HWC, lines) in pages(quick=self.options.quick).items():
            yield text_case(
                f"EasyOCR weights, {name}",
                image_HWC,
                lines,
                easyocr,
                like_easyocr,
                store,
                target=EASYOCR_TARGET,
                baseline="easyocr",
            )
            is_long = name.endswith("lines")
            yield text_case(
                f"PP-OCRv6, {name}",
                image_HWC,
                lines,
                rapidocr,
                ours,
                store,
                target=MANY_LINES_TARGET if is_long else RAPIDOCR_TARGET,
                baseline="rapidocr",
            )

    def chain(self, side: int, *, siblings: int) -> Case:
        sam2, naive_sam2 = self.sam2(side)
        threads = self.options.threads

        def open_tools(store: MediaStore) -> Toolset:
            config = EasyOcrConfig(precision="auto")
            reader = ReadText(store, backend="openvino", threads=threads, config=config)
            return Toolset(
                store, segmenter=Sam2Segment(sam2), tracker=Sam2Track(sam2), read_text=reader
            )

        naive = NaiveTools(self.easyocr(), naive_sam2)
        runs = 1 if siblings > 1 else 2 if self.options.quick else 3
        return chain_case(naive, open_tools, siblings=siblings, target=CHAIN_TARGET, runs=runs)


def pages(*, quick: bool) -> dict[str, tuple[np.ndarray, Sequence[str]]]:
    """Pictures and what stands on them; the names of those with many lines say how many."""
    found: dict[str, tuple[np.ndarray, Sequence[str]]] = {
        "invoice": (pixels("invoice"), scene("invoice").lines),
        "16 lines": dense_page(16),
    }
    if not quick:
        found["page.png"] = photograph("page.png"), PAGE
        found["station"] = pixels("station"), scene("station").lines
        found["32 lines"] = dense_page(32)
    return found


def read_with_easyocr(reader: Any, image_HWC: np.ndarray) -> list[str]:
    return [text for _, text, _ in reader.readtext(image_HWC)]


def open_rapidocr(threads: int) -> Callable[[np.ndarray], list[str]]:
    params: dict[str, Any] = {"Global.log_level": "critical"}
    for key in ("intra_op_num_threads", "inter_op_num_threads"):
        params[f"EngineConfig.onnxruntime.{key}"] = threads
    engine = RapidOCR(params=params)

    def read(image_HWC: np.ndarray) -> list[str]:
        """The package wants BGR."""
        return list(engine(np.ascontiguousarray(image_HWC[..., ::-1])).txts or ())

    return read


def measure(case: Case, report: Report, tick: Callable[[str], None]) -> None:
    calls = {"usual": case.usual, "ours": case.ours}
    samples = interleave(calls, warmup=case.warmup, runs=case.runs, tick=tick)
    names = {"usual": case.baseline, "ours": "ours"}
    report.timings += [timed(case.name, names[arm], sample) for arm, sample in samples.items()]
    report.baseline[case.name] = case.baseline  # type: ignore[index]
    report.checks += case.compare(samples["usual"].results[-1], samples["ours"].results[-1])


def measure_load(options: Options) -> dict[str, Any]:
    """Calls of every tool by several clients: what they waited, and what answered them."""
    tools = open_toolset(memo_bytes=MEMO_BYTES, threads=options.threads)
    count = QUICK_CALLS if options.quick else CALLS
    calls = draw_calls(random.Random(0), add_media(tools.store), count=count)
    run = Soak(tools, calls)
    _, seconds = run.run(clients=CLIENTS)
    waited = np.array([answer.waited_ms for answer in run.answers.values()])
    sources = [answer.source for answer in run.answers.values()]
    stats = tools.stats()
    tools.close()
    return {
        "clients": CLIENTS,
        "calls": count,
        "calls_per_second": round(count / seconds, 2),
        "p50_ms": round(float(np.percentile(waited, 50)), 2),
        "p99_ms": round(float(np.percentile(waited, 99)), 2),
        "kept_results": round(sources.count("memo") / count, 4),
        "joined": round(sources.count("joined") / count, 4),
        "pixel_hits": stats.pixels.hits,
        "pixel_misses": stats.pixels.misses,
    }


def goals(cases: Sequence[Case], report: Report) -> list[Goal]:
    ratios = report.ratios()
    return [
        Goal.at_least(f"{case.name} over {case.baseline}", case.target, ratios.get(case.name))
        for case in cases
        if case.target is not None
    ]


def chosen_cases(words: str) -> tuple[str, ...]:
    asked = listed(words)
    if not asked or set(asked) - set(CASES):
        raise SystemExit(f"--cases: expected some of {', '.join(CASES)}, got {words!r}")
    return asked


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(__doc__, arms=ARMS, add=add_flags, argv=argv)
    if options.arms != ARMS or options.device != "cpu":
        raise SystemExit("--arms, --device: expected both arms on the cpu, which are compared")
    names = chosen_cases(options.extra.cases)
    logging.getLogger("sam2").setLevel(logging.WARNING)
    cv2.setNumThreads(options.threads)
    report, cases = Report("tools", options, ours="ours", baseline={}), []
    with tempfile.TemporaryDirectory(prefix="pixelis-bench-") as folder, progress_bar() as bar:
        bench = Bench(options, Path(folder))
        opening = bar.add_task("opening models", total=None)
        for case in bench.cases(names):
            task = bar.add_task(case.name, total=2 * (case.warmup + case.runs))
            measure(case, report, tick=lambda _, task=task: bar.advance(task))
            cases.append(case)
        bar.update(opening, total=1, completed=1)
    report.goals += goals(cases, report)
    report.extra["sam2_engines"] = bench.engines
    if "load" in names:
        load = report.extra["load"] = measure_load(options)
        rows = [[key, f"{value}"] for key, value in load.items()]
        table = {"title": "four clients at once", "columns": ["what", "value"], "rows": rows}
        report.extra["tables"] = [table]
        report.tables.append(rich_table(table))
    report.notes.append("SAM 2 has random weights in both arms: graph and cost are SAM2.1-tiny's")
    return finish(report, options)


if __name__ == "__main__":
    sys.exit(main())
