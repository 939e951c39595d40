"""A long stream, learned from with and without what keeps a policy near: what becomes of it.

Both arms answer the same queries under a shift and learn from each vote at the same rate, a tenth
of the stream asking of each picture what was asked of another. `safe` has the KL to the average and
a corridor, `unsafe` neither. Now and then both answer the same questions greedily. Each arm is a
process of its own.

    python bench/ttrl_drift.py --quick
    python bench/ttrl_drift.py --queries 1650
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path

if __name__ == "__main__":
    import rooted  # noqa: F401

from bench.harness import (
    STDERR,
    Check,
    Goal,
    Options,
    Report,
    Timing,
    finish,
    parse_options,
    rich_table,
)
from pixelis_fast.agent import TRAINED_PRESETS, Agent
from pixelis_fast.corridor import CorridorConfig
from pixelis_fast.data.shift import ShiftConfig
from pixelis_fast.phases.ttrl import learn_from
from pixelis_fast.phases.ttrl_types import TtrlConfig, TtrlEvent, TtrlStatus
from pixelis_fast.reproduce.budget import BUDGETS
from pixelis_fast.reproduce.measure import agent_for, measure, questions_of_test
from pixelis_fast.reproduce.recipes import TEMPERATURE
from pixelis_fast.reproduce.stream import UPDATED, Learned, learned, stream
from pixelis_fast.types import Sample

SAFE, UNSAFE = "safe", "unsafe"
POLICY = "pixelworld-5m"
SHIFT = ShiftConfig("lighting", 2)
QUERIES, QUICK_QUERIES = 1650, 4
ASKED, QUICK_ASKED = 105, 3
PARTS = 4
"""Of the stream: the questions are asked before the first and behind each."""
GROUP = 4
RATE = 1e-3
CORRIDOR = CorridorConfig(low=0.0002, high=0.0005)
"""nats per token, at this policy's own scale: its entropy is about 0.07 per token that it chooses,
so a corridor of 0.10 to 0.20, which is a policy's of billions of parameters, never binds here."""
LEAST_UPDATES = 1000
LEAST_BELOW_TOP = 99.0


@dataclass(frozen=True)
class Point:
    """The questions' answers at one place of the stream."""

    queries: int
    updates: int
    accuracy: float
    validity: float | None
    length: float


@dataclass
class Course:
    """One arm from its start to where it is."""

    points: list[Point] = field(default_factory=list)
    parts: list[Learned] = field(default_factory=list)
    """Of the stream between two points."""
    kls: list[float] = field(default_factory=list)
    """To the average, of every update that was published."""
    statuses: Counter[str] = field(default_factory=Counter)
    measured: list[int] = field(default_factory=list)
    """How often each update's drift was measured."""
    update_ms: list[float] = field(default_factory=list)
    sample_ids: list[str] = field(default_factory=list)

    @property
    def updates(self) -> int:
        return sum(self.statuses[status.value] for status in UPDATED)

    def add(self, event: TtrlEvent) -> None:
        self.statuses[event.status.value] += 1
        self.sample_ids.append(event.sample_id)
        if event.status is TtrlStatus.PUBLISHED and event.kl is not None:
            self.kls.append(event.kl)
        if event.update:
            self.measured.append(event.update.get("num_measured", 0))
            self.update_ms.append(1e3 * event.update["seconds"])


@dataclass(frozen=True)
class Plan:
    """What both arms share."""

    folder: Path
    queries: int
    asked: int
    threads: int

    def config(self, arm: str) -> TtrlConfig:
        return TtrlConfig(
            out=str(self.folder / arm / "run"),
            group=GROUP,
            temperature=TEMPERATURE,
            learning_rate=RATE,
            corridor=CORRIDOR,
            safety=arm == SAFE,
        )

    def ends(self) -> list[int]:
        """Queries behind which the questions are asked."""
        return [round(self.queries * part / PARTS) for part in range(1, PARTS + 1)]


def run_arm(plan: Plan, arm: str) -> Course:
    """All of the stream; what is served is asked on the way."""
    budget, folder = replace(BUDGETS["short"], threads=plan.threads), plan.folder / arm
    agent = agent_for(Path(TRAINED_PRESETS[POLICY]), budget=budget, seed=0)
    config, course = plan.config(arm), Course()
    samples: list[Sample] = []
    events: list[TtrlEvent] = []
    start_s = time.perf_counter()
    with agent.loop:
        course.points.append(point(agent, plan, folder, course))
        for event in learn_from(agent, config, queries_of(agent, plan, folder, samples)):
            course.add(event)
            events.append(event)
            if len(course.sample_ids) in plan.ends():
                course.parts.append(learned(events, samples, corridor=config.corridor))
                course.points.append(point(agent, plan, folder, course))
                tell(arm, course, time.perf_counter() - start_s)
                samples.clear()
                events.clear()
    return course


def queries_of(agent: Agent, plan: Plan, folder: Path, samples: list[Sample]) -> Iterator[Sample]:
    """The stream; `samples` gets each as it is asked."""
    for sample in stream(
        agent, folder / "media", plan.queries, shift=SHIFT, adversarial=plan.queries >= 10
    ):
        samples.append(sample)
        yield sample


def point(agent: Agent, plan: Plan, folder: Path, course: Course) -> Point:
    queries = len(course.sample_ids)
    asked = questions_of_test(plan.asked, shift=SHIFT)
    found = measure(agent, asked, folder / f"after {queries}", title=f"{folder.name}, {queries}")
    return Point(queries, course.updates, found.accuracy, found.validity, found.length)


def tell(arm: str, course: Course, seconds: float) -> None:
    last = course.points[-1]
    right = f"{100 * last.accuracy:.1f} % right"
    STDERR.print(f"{arm}: {last.queries} queries, {last.updates} updates, {right}, {seconds:.0f} s")


def measure_both(options: Options) -> Report:
    quick = options.quick
    queries = options.extra.queries or (QUICK_QUERIES if quick else QUERIES)
    asked = QUICK_ASKED if quick else ASKED
    if queries < PARTS:
        raise SystemExit(f"--queries: expected at least {PARTS}, got {queries}")
    with tempfile.TemporaryDirectory() as name:
        plan = Plan(Path(name), queries, asked, options.threads)
        # A fresh process each: a fork would inherit this one's threads half-alive.
        context = get_context("spawn")
        with ProcessPoolExecutor(len(options.arms), mp_context=context) as pool:
            running = {arm: pool.submit(run_arm, plan, arm) for arm in options.arms}
            courses = {arm: each.result() for arm, each in running.items()}
    return report_of(options, courses)


def report_of(options: Options, courses: dict[str, Course]) -> Report:
    report = Report("ttrl_drift", options, ours=SAFE, baseline=UNSAFE)
    report.timings = [
        Timing("update", arm, tuple(course.update_ms))
        for arm, course in courses.items()
        if course.update_ms
    ]
    ids = [course.sample_ids for course in courses.values()]
    report.checks = [Check.same("update", "queries", ids[-1] == ids[0], True)]
    starts = {course.points[0].accuracy for course in courses.values()}
    report.checks.append(Check.same("update", "policies at the start", len(starts), 1))
    table = table_of(courses)
    report.tables = [rich_table(table)]
    report.goals = list(goals_of(courses)) if not options.quick else []
    report.extra = {
        "tables": [table],
        "arms": {arm: summary(course) for arm, course in courses.items()},
        "settings": {
            "group": GROUP,
            "learning_rate": RATE,
            "temperature": TEMPERATURE,
            "shift": asdict(SHIFT),
            "corridor": asdict(CORRIDOR),
        },
    }
    return report


def goals_of(courses: dict[str, Course]) -> Iterator[Goal]:
    yield Goal.at_least(
        "updates, the arm with fewer", LEAST_UPDATES, min(c.updates for c in courses.values())
    )
    if SAFE in courses:
        safe = courses[SAFE]
        below = sum(kl <= CORRIDOR.high for kl in safe.kls)
        share = round(100 * below / len(safe.kls), 2) if safe.kls else None
        yield Goal.at_least("published at or below the corridor's top, %", LEAST_BELOW_TOP, share)
        yield Goal.at_least("safe: points gained under the shift", 3.5, gained(safe))
    if set(courses) == {SAFE, UNSAFE}:
        apart = round(gained(courses[SAFE]) - gained(courses[UNSAFE]), 1)
        yield Goal.at_least("points that safety keeps", 3.5, apart)


def gained(course: Course) -> float:
    return round(100 * (course.points[-1].accuracy - course.points[0].accuracy), 1)


def summary(course: Course) -> dict[str, object]:
    kls = sorted(course.kls)
    return {
        "points": [asdict(each) for each in course.points],
        "parts": [asdict(each) for each in course.parts],
        "statuses": dict(course.statuses),
        "kl_median": kls[len(kls) // 2] if kls else None,
        "kl_highest": kls[-1] if kls else None,
        "inside_corridor": share_inside(kls),
        "measured_mean": sum(course.measured) / len(course.measured) if course.measured else None,
    }


def share_inside(kls: Sequence[float]) -> float | None:
    inside = [CORRIDOR.low <= kl <= CORRIDOR.high for kl in kls]
    return sum(inside) / len(inside) if inside else None


def table_of(courses: dict[str, Course]) -> dict[str, object]:
    columns = ["queries"]
    for arm in courses:
        columns += [f"{arm}: updates", "right %", "valid %", "calls"]
    rows = []
    for points in zip(*(course.points for course in courses.values()), strict=True):
        row = [str(points[0].queries)]
        for each in points:
            valid = "" if each.validity is None else f"{100 * each.validity:.1f}"
            row += [str(each.updates), f"{100 * each.accuracy:.1f}", valid, f"{each.length:.2f}"]
        rows.append(row)
    return {"title": "ttrl_drift: the same questions on the way", "columns": columns, "rows": rows}


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--queries", type=int, help=f"{QUERIES}, or {QUICK_QUERIES} quick")


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(__doc__, arms=(SAFE, UNSAFE), add=add_flags, argv=argv)
    return finish(measure_both(options), options)


if __name__ == "__main__":
    sys.exit(main())
