"""Fuzz: broken media and absurd arguments, drawn from a seed, against all six tools.

Each input is offered to a tool directly and through the scheduler. Both must answer alike: with a
ToolError that says what was expected, or with a result that lies inside its frame. Anything else
is a failed check that names the input's number. File descriptors and memory are watched.

    python bench/fuzz.py --quick
    python bench/fuzz.py --count 2000
    python bench/fuzz.py --only 137
    python bench/fuzz.py --masks micro

With `--masks micro` segment and track run on the micro SAM 2.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

if __name__ == "__main__":
    import rooted  # noqa: F401

from bench.flags import add_seed
from bench.fuzz_calls import TOOLS, CallMaker, FuzzedCall, fault_of
from bench.fuzz_media import FuzzedMedia, draw_media
from bench.harness import (
    STDERR,
    Check,
    Options,
    Report,
    Timing,
    finish,
    parse_options,
    progress_bar,
)
from bench.mask_engines import CLASSICAL, add_masks, open_mask_engines, variant
from bench.process import open_files, resident_mb
from pixelis_fast.tools_trt.localize import Localize
from pixelis_fast.tools_trt.pixels.media import MediaInfo
from pixelis_fast.tools_trt.properties import Properties
from pixelis_fast.tools_trt.read_text import ReadText
from pixelis_fast.tools_trt.results import ToolError
from pixelis_fast.tools_trt.segment import Segment
from pixelis_fast.tools_trt.store import MediaStore
from pixelis_fast.tools_trt.toolset import Toolset
from pixelis_fast.tools_trt.track import Track
from pixelis_fast.tools_trt.zoom import Zoom

ARMS = ("scheduled", "direct")
COUNT, QUICK_COUNT = 2000, 200
STORE_BYTES = 16 << 20
"""Small, so that pixels are dropped and made again."""
ODDNESS = 0.15
"""Share of wrong arguments: most calls have none or one."""
REPEATED = 4
"""One of so many inputs is run again at the end."""
MAX_GROWTH_MB = 64.0
"""Of resident memory while they are."""
MAX_NEW_FILES = 4
SLOW_S = 20.0
"""No input may take longer."""


@dataclass
class Findings:
    """What was seen so far."""

    faults: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    times_ms: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    slowest: tuple[float, str] = (0.0, "none")

    def add_time(self, tool: str, arm: str, seconds: float, name: str) -> None:
        self.times_ms.setdefault((tool, arm), []).append(1e3 * seconds)
        self.slowest = max(self.slowest, (seconds, name))


class Fuzzer:
    """The tools under test, and one input after the other.

    Example:
        findings = Fuzzer(seed=0).run(range(200))
    """

    def __init__(self, *, seed: int, threads: int = 1, masks: str = CLASSICAL) -> None:
        self._seed = seed
        self.store = store = MediaStore(STORE_BYTES)
        segmenter, tracker = open_mask_engines(masks, threads=threads)
        read_text = ReadText(store, backend="openvino", threads=threads)
        self._direct: dict[str, Callable[..., Any]] = {
            "zoom": Zoom(store),
            "segment": Segment(store, segmenter),
            "track": Track(store, tracker),
            "read_text": read_text,
            "localize": Localize(store, read_text=read_text),
            "properties": Properties(store),
        }
        self.tools = Toolset(
            store, segmenter=segmenter, tracker=tracker, read_text=read_text, memo_bytes=1 << 20
        )
        self.findings = Findings()

    def run_one(self, number: int) -> None:
        """Offers one input; whatever is wrong with the answers is kept in `findings`."""
        rng = random.Random(f"{self._seed}/{number}")
        media = draw_media(rng)
        info = self._add(media, number)
        if info is None:
            return
        for _ in range(2):
            call = CallMaker(rng, info, oddness=ODDNESS).draw()
            self._check(call, info, f"input {number} ({media.name}, {call.tool})")
        self.store.forget(info.id)

    def _add(self, media: FuzzedMedia, number: int) -> MediaInfo | None:
        name = f"input {number} ({media.name}, add)"
        is_video = media.offered_as == "video"
        add = self.store.add_video if is_video else self.store.add_image
        outcome = self._timed("add", "direct", name, lambda: add(media.encoded))
        if isinstance(outcome, MediaInfo):
            self.findings.outcomes["media added"] += 1
            return outcome
        self._judge(outcome, MediaInfo("", media.offered_as, 1, 1), name)
        return None

    def _check(self, call: FuzzedCall, info: MediaInfo, name: str) -> None:
        outcomes = []
        for arm in ARMS:
            run = self._scheduled if arm == "scheduled" else self._straight
            outcomes.append(self._timed(call.tool, arm, name, lambda r=run: r(call)))
        self._judge(outcomes[0], info, name)
        if described(outcomes[0]) != described(outcomes[1]):
            self.findings.faults.append(f"{name}: {outcomes[0]!r:.200} is not {outcomes[1]!r:.200}")

    def _scheduled(self, call: FuzzedCall) -> Any:
        ticket: Future[Any] = self.tools.submit(call.tool, *call.arguments, **call.options)
        return ticket.result(10 * SLOW_S)

    def _straight(self, call: FuzzedCall) -> Any:
        return self._direct[call.tool](*call.arguments, **call.options)

    def _timed(self, tool: str, arm: str, name: str, run: Callable[[], Any]) -> Any:
        start_s = time.perf_counter()
        try:
            outcome = run()
        except Exception as error:  # what tools may raise is what this benchmark asks
            outcome = error
        self.findings.add_time(tool, arm, time.perf_counter() - start_s, name)
        return outcome

    def _judge(self, outcome: Any, info: MediaInfo, name: str) -> None:
        fault = fault_of(outcome, info)
        if fault is not None:
            self.findings.faults.append(f"{name}: {fault:.300}")
        kind = "wrong" if fault else "refused" if isinstance(outcome, ToolError) else "answered"
        self.findings.outcomes[kind] += 1


def described(outcome: Any) -> Any:
    """What two arms must agree on."""
    is_error = isinstance(outcome, BaseException)
    return (type(outcome), str(outcome)) if is_error else outcome


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, help=f"inputs; {COUNT}, or {QUICK_COUNT} with --quick")
    add_seed(parser)
    add_masks(parser)
    parser.add_argument("--only", type=int, help="the number of one input")


def watched(fuzzer: Fuzzer, numbers: Sequence[int]) -> list[Check]:
    """Runs the inputs, then a part of them again: what that still adds is a leak."""
    again = numbers[: max(len(numbers) // REPEATED, 1)]
    with progress_bar() as bar:
        task = bar.add_task("inputs", total=len(numbers) + len(again))
        for part in (numbers, again):
            gc.collect()
            files, resident = open_files(), resident_mb()
            for number in part:
                fuzzer.run_one(number)
                bar.advance(task)
    gc.collect()
    return [
        Check.at_most("all", "new open files", open_files() - files, MAX_NEW_FILES),
        Check.at_most("all", "growth, MB", round(resident_mb() - resident, 1), MAX_GROWTH_MB),
        Check.at_most("all", "decoded bytes", fuzzer.store.pixel_bytes, STORE_BYTES),
    ]


def report_of(fuzzer: Fuzzer, checks: list[Check], options: Options) -> Report:
    findings = fuzzer.findings
    report = Report("fuzz", options, ours="scheduled", baseline="direct")
    timed = sorted(findings.times_ms.items())
    report.timings = [Timing(tool, arm, tuple(times)) for (tool, arm), times in timed]
    for tool in ("add", *TOOLS):
        faults = [fault for fault in findings.faults if f", {tool})" in fault]
        report.checks.append(Check.same(tool, "unsound answers", faults[:5], []))
    slowest_s, name = findings.slowest
    report.checks += [*checks, Check.at_most("all", f"slowest, s: {name}", slowest_s, SLOW_S)]
    report.extra = {"outcomes": dict(findings.outcomes), "faults": findings.faults}
    report.extra["variant"] = variant(options.extra.masks)
    report.extra["engines"] = fuzzer.tools.engines()
    report.notes.append(f"outcomes: {dict(findings.outcomes)}")
    return report


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(__doc__, arms=ARMS, add=add_flags, argv=argv)
    # Decoders complain on their own; PIL warns of sizes that are meant here.
    warnings.simplefilter("ignore")
    extra = options.extra
    fuzzer = Fuzzer(seed=extra.seed, threads=options.threads, masks=extra.masks)
    count = extra.count or (QUICK_COUNT if options.quick else COUNT)
    only = extra.only
    numbers = range(count) if only is None else [only]
    checks = watched(fuzzer, numbers)
    for fault in fuzzer.findings.faults[:40]:
        STDERR.print(fault, markup=False, style="red")
    return finish(report_of(fuzzer, checks, options), options)


if __name__ == "__main__":
    sys.exit(main())
