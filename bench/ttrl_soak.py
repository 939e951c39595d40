"""Two thousand updates of a learner in one process: what grows, and whether updates get slower.

Groups are scripted (ttrl_group.py), everything else is real: forwards, tools, vote, gradient,
corridor, publish, snapshots, memory and log. Early updates are timed against late ones.

    python bench/ttrl_soak.py --quick
    python bench/ttrl_soak.py --updates 2000
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    import rooted  # noqa: F401

from bench.harness import Check, Goal, Options, Report, Timing, finish, parse_options, progress_bar
from bench.process import open_files, resident_mb, slope_mb
from bench.scenes import scene
from bench.ttrl_group import learner_config, make_learner, question, unit_agent
from pixelis_fast.agent import Agent
from pixelis_fast.audit import verify
from pixelis_fast.memory import ExperienceMemory, MemoryConfig
from pixelis_fast.phases.ttrl import MEMORY
from pixelis_fast.phases.ttrl_learner import AUDIT, TtrlLearner
from pixelis_fast.phases.ttrl_types import TtrlConfig, TtrlEvent

EARLY, LATE = "early", "late"
UPDATES, QUICK_UPDATES = 2000, 12
GROUP = 4
SHARE = 0.1
"""Of the run, at each end, that is compared."""
MAX_SLOPE_MB = 2.0
"""Of resident memory per 1,000 updates."""
KEPT = 300
"""Experiences, soon full: what is stored grows up to its limit, and is not what is looked for."""
SCENE = "coffee"


@dataclass
class Course:
    """What a run was like, update by update."""

    updates: list[int] = field(default_factory=list)
    resident_mb: list[float] = field(default_factory=list)
    step_ms: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    kls: list[float] = field(default_factory=list)
    """Of what was published."""

    def add(self, event: TtrlEvent, updates: int, ms: float) -> None:
        self.updates.append(updates)
        self.resident_mb.append(resident_mb())
        self.step_ms.append(ms)
        self.statuses[event.status.value] += 1
        if event.kl is not None and event.status.value == "published":
            self.kls.append(event.kl)


def run(learner: TtrlLearner, agent: Agent, count: int) -> Course:
    course = Course()
    with progress_bar() as bar:
        task = bar.add_task("updates", total=count)
        while learner.num_updates < count:
            sample = question(agent, scene(SCENE), learner.num_queries)
            start_s = time.perf_counter()
            event = learner.step(sample)
            course.add(event, learner.num_updates, 1e3 * (time.perf_counter() - start_s))
            bar.update(task, completed=learner.num_updates)
    return course


def measure(options: Options) -> Report:
    count = options.extra.updates or (QUICK_UPDATES if options.quick else UPDATES)
    agent = unit_agent(options.threads)
    with tempfile.TemporaryDirectory() as name:
        settings = learner_config(Path(name), group=GROUP)
        limits = MemoryConfig(agent.policy.config.text.hidden_size, max_experiences=KEPT)
        with (
            ExperienceMemory(Path(name) / MEMORY, limits) as memory,
            agent.loop,
            make_learner(agent, settings, memory) as learner,
        ):
            files = open_files()
            course = run(learner, agent, count)
            grown = open_files() - files
            problems = list(memory.verify().problems)
        events = verify(Path(name) / AUDIT).num_events
    return report_of(options, settings, course, grown=grown, problems=problems, events=events)


def report_of(
    options: Options,
    settings: TtrlConfig,
    course: Course,
    *,
    grown: int,
    problems: Sequence[str],
    events: int,
) -> Report:
    report = Report("ttrl_soak", options, ours=LATE, baseline=EARLY)
    end = max(1, int(SHARE * len(course.step_ms)))
    report.timings = [
        Timing("query", EARLY, tuple(course.step_ms[:end])),
        Timing("query", LATE, tuple(course.step_ms[-end:])),
    ]
    report.checks = [
        Check.same("query", "memory against its index", list(problems)[:3], []),
        Check.at_most("query", "new open files", grown, 4),
        Check.at_least("query", "events in the verified log", events, len(course.step_ms)),
    ]
    slope = round(slope_mb(course.updates, course.resident_mb), 2)
    over = sum(kl > settings.corridor.high for kl in course.kls)
    report.goals = [
        Goal.at_most("published above the corridor's top", 0, over),
        Goal.at_least("updates published", 1, len(course.kls)),
    ]
    if not options.quick:
        goal = Goal.at_most("memory, MB per 1,000 updates", MAX_SLOPE_MB, slope)
        report.goals.append(goal)
    step = max(len(course.resident_mb) // 20, 1)
    report.extra = {
        "updates": course.updates[-1],
        "queries": len(course.step_ms),
        "statuses": dict(course.statuses),
        "slope_mb_per_1000": slope,
        "resident_mb": [round(value, 1) for value in course.resident_mb[::step]],
    }
    report.notes.append(
        f"{course.updates[-1]} updates of {len(course.step_ms)} queries: {dict(course.statuses)}"
    )
    return report


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--updates", type=int, help=f"{UPDATES}, or {QUICK_UPDATES} quick")


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(__doc__, arms=(EARLY, LATE), add=add_flags, argv=argv)
    return finish(measure(options), options)


if __name__ == "__main__":
    sys.exit(main())
