"""Soak: thousands of mixed calls on real media by several threads through the scheduler.

Throughput, waiting times, hit rates, and what grows: memory, open files, the store beside its
budget. Part of the calls repeat, as the calls of rollouts of one question do. The first calls are
also made by as many clients without a memo: the results must be equal, and the ratio says what
keeping results is worth.

    python bench/soak.py --quick
    python bench/soak.py --calls 5000 --clients 4
    python bench/soak.py --masks micro

With `--masks micro` segment and track run on the micro SAM 2: its feature store, sessions and
prompts soak too, and the share of pictures whose features were there is told.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import random
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

if __name__ == "__main__":
    import rooted  # noqa: F401

from bench.flags import add_seed
from bench.harness import (
    Check,
    Goal,
    Options,
    Report,
    Timing,
    finish,
    parse_options,
    progress_bar,
    rich_table,
)
from bench.mask_engines import (
    CLASSICAL,
    FEATURE_BYTES,
    MaskEngines,
    add_masks,
    feature_figures,
    open_mask_engines,
    variant,
)
from bench.process import open_files, resident_mb, slope_mb
from bench.soak_calls import TOOLS, SoakCall, add_media, draw_calls
from pixelis_fast.tools_trt.memo import recalled
from pixelis_fast.tools_trt.read_text import ReadText
from pixelis_fast.tools_trt.results import ToolError
from pixelis_fast.tools_trt.store import MediaStore
from pixelis_fast.tools_trt.toolset import Toolset

ARMS = ("ours", "no memo")
CALLS, QUICK_CALLS = 5000, 400
CLIENTS = 4
COMPARED, QUICK_COMPARED = 300, 60
"""Calls that are made without a memo too."""
STORE_BYTES, MEMO_BYTES = 48 << 20, 8 << 20
"""Both too small for everything, so that things are dropped and made again."""
SAMPLES = 200
MAX_SLOPE_MB = 2.0
"""Of resident memory per 1,000 calls."""
PATIENCE_S = 300.0


@dataclass
class Answer:
    """What a caller got, and how long it waited."""

    digest: str
    """Of the result or the refusal: the results themselves would be what grows."""
    waited_ms: float
    source: str


@dataclass
class Samples:
    """What was held at some moments."""

    calls: list[int] = field(default_factory=list)
    resident_mb: list[float] = field(default_factory=list)
    store_bytes: list[int] = field(default_factory=list)
    memo_bytes: list[int] = field(default_factory=list)

    def add(self, done: int, tools: Toolset) -> None:
        self.calls.append(done)
        self.resident_mb.append(resident_mb())
        self.store_bytes.append(tools.store.pixel_bytes)
        self.memo_bytes.append(tools.stats().results.host_bytes)

    def slope_mb(self) -> float:
        return slope_mb(self.calls, self.resident_mb)


def open_toolset(*, memo_bytes: int, threads: int, engines: MaskEngines | None = None) -> Toolset:
    """With the engines of segment and track, by default the classical ones."""
    store = MediaStore(STORE_BYTES)
    segmenter, tracker = engines or open_mask_engines(CLASSICAL, threads=threads)
    return Toolset(
        store,
        segmenter=segmenter,
        tracker=tracker,
        read_text=ReadText(store, backend="openvino", threads=threads),
        memo_bytes=memo_bytes,
    )


def answer(tools: Toolset, call: SoakCall) -> Answer:
    """Asks and waits; a refusal is an answer."""
    start_s = time.perf_counter()
    ticket = tools.submit(call.tool, *call.arguments, **dict(call.options))
    try:
        outcome = repr(recalled(ticket.result(PATIENCE_S)))
    except ToolError as error:
        outcome = repr(error)
    waited_ms = 1e3 * (time.perf_counter() - start_s)
    return Answer(hashlib.sha256(outcome.encode()).hexdigest(), waited_ms, ticket.source)


class Soak:
    """Clients that take calls from one list."""

    def __init__(self, tools: Toolset, calls: Sequence[SoakCall]) -> None:
        self.tools, self.calls = tools, calls
        self.answers: dict[int, Answer] = {}
        self.errors: list[BaseException] = []
        self._next = iter(range(len(calls)))
        self._lock = threading.Lock()

    def run(self, *, clients: int) -> tuple[Samples, float]:
        """What was held while they ran, and the seconds they took."""
        threads = [threading.Thread(target=self._client, daemon=True) for _ in range(clients)]
        samples, start_s = Samples(), time.perf_counter()
        step = max(len(self.calls) // SAMPLES, 1)
        for thread in threads:
            thread.start()
        with progress_bar() as bar:
            task = bar.add_task(f"{clients} clients", total=len(self.calls))
            while any(thread.is_alive() for thread in threads):
                time.sleep(0.02)
                done = len(self.answers)
                bar.update(task, completed=done)
                if not samples.calls or done >= samples.calls[-1] + step:
                    samples.add(done, self.tools)
            bar.update(task, completed=len(self.answers))
        if self.errors:
            raise self.errors[0]
        return samples, time.perf_counter() - start_s

    def _client(self) -> None:
        while True:
            with self._lock:
                number = next(self._next, None)
            if number is None or self.errors:
                return
            try:
                self.answers[number] = answer(self.tools, self.calls[number])
            except BaseException as error:  # told by the main thread
                self.errors.append(error)
                return


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calls", type=int, help=f"{CALLS}, or {QUICK_CALLS} with --quick")
    parser.add_argument("--clients", type=int, default=CLIENTS)
    add_masks(parser)
    add_seed(parser)


def timings_of(
    prefix: str, calls: Sequence[SoakCall], arms: dict[str, Sequence[Answer]]
) -> list[Timing]:
    timings = []
    for tool in (*TOOLS, "all tools"):
        for arm, answers in arms.items():
            pairs = zip(calls, answers, strict=True)
            waited = [a.waited_ms for call, a in pairs if tool in (call.tool, "all tools")]
            if waited:
                timings.append(Timing(f"{prefix}{tool}", arm, tuple(waited)))
    return timings


def without_memo(calls: Sequence[SoakCall], options: Options) -> list[Answer]:
    """The same calls by the same number of clients, each computed unless it joins another."""
    engines = open_mask_engines(options.extra.masks, threads=options.threads)
    tools = open_toolset(memo_bytes=0, threads=options.threads, engines=engines)
    add_media(tools.store)
    run = Soak(tools, calls)
    run.run(clients=options.extra.clients)
    tools.close()
    return [run.answers[number] for number in range(len(calls))]


def equality(calls: Sequence[SoakCall], ours: Sequence[Answer], slow: Sequence[Answer]) -> Check:
    pairs = zip(calls, ours, slow, strict=False)
    wrong = [f"{call}" for call, one, other in pairs if one.digest != other.digest]
    return Check.same("all tools", f"unequal results of {len(slow)}", wrong[:3], [])


def rates(answers: Sequence[Answer]) -> dict[str, float]:
    count = len(answers)
    return {
        source: round(sum(each.source == source for each in answers) / count, 4)
        for source in ("memo", "joined", "ran")
    }


def soak(options: Options) -> Report:
    count = options.extra.calls or (QUICK_CALLS if options.quick else CALLS)
    engines = open_mask_engines(options.extra.masks, threads=options.threads)
    tools = open_toolset(memo_bytes=MEMO_BYTES, threads=options.threads, engines=engines)
    calls = draw_calls(random.Random(options.extra.seed), add_media(tools.store), count=count)
    files = open_files()
    run = Soak(tools, calls)
    samples, seconds = run.run(clients=options.extra.clients)
    gc.collect()
    answers = [run.answers[number] for number in range(count)]
    compared = min(count, QUICK_COMPARED if options.quick else COMPARED)
    slow = without_memo(calls[:compared], options)
    report = Report("soak", options, ours="ours", baseline="no memo")
    both = {"ours": answers[:compared], "no memo": slow}
    report.timings = timings_of(f"first {compared}: ", calls[:compared], both)
    report.timings += timings_of("", calls, {"ours": answers})
    report.checks = [
        equality(calls, answers, slow),
        Check.at_most("all tools", "largest store, bytes", max(samples.store_bytes), STORE_BYTES),
        Check.at_most("all tools", "largest memo, bytes", max(samples.memo_bytes), MEMO_BYTES),
        Check.at_most("all tools", "new open files", open_files() - files, 4),
        Check.same("all tools", "answers", len(answers), count),
    ]
    features = feature_figures(engines[0])
    if features is not None:
        report.checks += [
            Check.at_most("all tools", "feature store, bytes", features["bytes"], FEATURE_BYTES),
            Check.at_least("all tools", "features that were there", features["hits"], 1),
        ]
    slope = round(samples.slope_mb(), 2)
    if not options.quick:
        report.goals = [Goal.at_most("memory, MB per 1,000 calls", MAX_SLOPE_MB, slope)]
    step = max(len(samples.calls) // 20, 1)
    report.extra = {
        "variant": variant(options.extra.masks),
        "calls_per_second": round(count / seconds, 2),
        "clients": options.extra.clients,
        "answered_by": rates(answers),
        "slope_mb_per_1000": slope,
        "features": features,
        "resident_mb": [round(value, 1) for value in samples.resident_mb[::step]],
        "engines": tools.engines(),
        "stats": tools.stats().to_json(),
    }
    shown = ("calls_per_second", "answered_by", "slope_mb_per_1000", "features")
    rows = [[key, f"{report.extra[key]}"] for key in shown]
    report.tables.append(rich_table({"title": "soak", "columns": ["what", "value"], "rows": rows}))
    report.notes += [f"degraded: {tool}: {why}" for tool, why in tools.degraded().items()]
    tools.close()
    return report


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(__doc__, arms=ARMS, add=add_flags, argv=argv)
    return finish(soak(options), options)


if __name__ == "__main__":
    sys.exit(main())
