"""A learner killed at random moments, again and again, in one folder: what must hold afterwards.

Every round a fresh process opens the folder, checks what the last kill left (the log's chain, the
memory against its index, every query that was acknowledged), goes on learning, and is killed
(signal 9) at a random moment. Groups are scripted, everything else is real.

    python bench/ttrl_kills.py --quick
    python bench/ttrl_kills.py --kills 200
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

if __name__ == "__main__":
    import rooted  # noqa: F401

from bench.flags import add_seed
from bench.harness import Check, Goal, Options, Report, Timing, finish, parse_options, progress_bar
from bench.scenes import scene
from bench.ttrl_group import learner_config, make_learner, question, unit_agent
from pixelis_fast.audit import read_events
from pixelis_fast.phases.ttrl import open_memory
from pixelis_fast.phases.ttrl_learner import AUDIT, TENANT, TtrlLearner

FRESH, RESUMED = "fresh", "resumed"
KILLS, QUICK_KILLS = 200, 4
GROUP = 4
LATEST_S = 4.0
"""A kill comes up to so long after the process is ready."""
SCENE = "coffee"


@dataclass
class Found:
    """What all rounds saw."""

    ready_ms: list[float] = field(default_factory=list)
    acknowledged: int = 0
    """Queries whose event was returned."""
    problems: list[str] = field(default_factory=list)
    torn_logs: int = 0


def learn(folder: Path, out: TextIO, acknowledged: int) -> None:
    """A round's process: checks, then steps until it is killed; a JSON object per line."""
    agent = unit_agent(1)
    settings = learner_config(folder, group=GROUP)
    with (
        open_memory(agent, settings) as memory,
        agent.loop,
        make_learner(agent, settings, memory) as learner,
    ):
        ids = memory.ids(TENANT)
        problems = [*memory.verify().problems, *left_behind(learner, ids, acknowledged)]
        say(out, problems=problems, query=learner.num_queries)
        while True:
            event = learner.step(question(agent, scene(SCENE), learner.num_queries))
            say(out, query=event.query)


def left_behind(learner: TtrlLearner, ids: Sequence[str], acknowledged: int) -> list[str]:
    """What the last kill broke."""
    found = []
    stored = {int(each.rsplit("#")[-1]) for each in ids}
    if missing := sorted(set(range(acknowledged)) - stored):
        found.append(f"memory: acknowledged queries {missing[:3]} are gone")
    if len(ids) != len(stored):
        found.append("memory: a query is there twice")
    rows = read_events(Path(learner.config.out) / AUDIT)
    logged = {row["data"]["query"] for row in rows if row["kind"] == "query"}
    if missing := sorted(set(range(acknowledged)) - logged):
        found.append(f"log: acknowledged queries {missing[:3]} are gone")
    told = {row["data"]["fingerprint"] for row in rows if row["kind"] in ("publish", "start")}
    bank = learner.parts.updater.bank
    if bank.fingerprint() not in told:
        found.append("snapshot: its bank was never published")
    if learner.num_queries < acknowledged:
        found.append(f"snapshot: query {learner.num_queries}, acknowledged {acknowledged}")
    return found


def say(out: TextIO, **row: object) -> None:
    out.write(json.dumps(row) + "\n")
    out.flush()


def start(work: Callable[[TextIO], None]) -> tuple[int, TextIO]:
    """A fork: the imports are done, and no thread exists yet that it could lose."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, os.fdopen(reading)
    os.close(reading)
    try:
        work(os.fdopen(writing, "w"))
    except BaseException:
        traceback.print_exc()
    os._exit(1)


def kill_once(folder: Path, rng: random.Random, found: Found) -> None:
    start_s = time.perf_counter()
    child, lines = start(lambda out: learn(folder, out, found.acknowledged))
    first = lines.readline()
    if not first:
        os.waitpid(child, 0)
        raise RuntimeError("learner: expected it ready, got an end; its error stands above")
    found.ready_ms.append(1e3 * (time.perf_counter() - start_s))
    found.problems += json.loads(first)["problems"]
    time.sleep(rng.uniform(0, LATEST_S))
    os.kill(child, signal.SIGKILL)
    for line in lines:
        if line.endswith("\n"):
            found.acknowledged = max(found.acknowledged, json.loads(line)["query"] + 1)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        # What a kill left may let it start and still stop it later.
        found.problems.append("learner: ended by an error of its own, which stands above")


def measure(options: Options) -> Report:
    kills = options.extra.kills or (QUICK_KILLS if options.quick else KILLS)
    found, rng = Found(), random.Random(options.extra.seed)
    with tempfile.TemporaryDirectory() as name, progress_bar() as bar:
        folder = Path(name)
        task = bar.add_task("kills", total=kills)
        for _ in range(kills):
            kill_once(folder, rng, found)
            bar.advance(task)
        # One more process checks what the last kill left.
        child, lines = start(lambda out: learn(folder, out, found.acknowledged))
        found.problems += json.loads(lines.readline())["problems"]
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        rows = read_events(folder / AUDIT)
    found.torn_logs = sum(row["kind"] == "log_cut" for row in rows)
    return report_of(options, found, rows, kills)


def report_of(options: Options, found: Found, rows: Sequence[dict], kills: int) -> Report:
    report = Report("ttrl_kills", options, ours=RESUMED, baseline=FRESH)
    first, *later = found.ready_ms
    report.timings = [
        Timing("start to ready", FRESH, (first,)),
        Timing("start to ready", RESUMED, tuple(later)),
    ]
    report.checks = [Check.same("start to ready", "problems after a kill", found.problems[:3], [])]
    report.goals = [
        Goal.at_most("stored experiences lost, logs broken, snapshots unfit", 0,
                     len(found.problems)),
        Goal.at_least("queries acknowledged between kills", 1, found.acknowledged),
    ]  # fmt: skip
    report.extra = {
        "kills": kills,
        "acknowledged": found.acknowledged,
        "torn_logs": found.torn_logs,
        "resumes": sum(row["kind"] == "resume" for row in rows),
        "publishes": sum(row["kind"] == "publish" for row in rows),
    }
    report.notes.append(f"{kills} kills, {found.acknowledged} queries, {found.torn_logs} torn logs")
    return report


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kills", type=int, help=f"{KILLS}, or {QUICK_KILLS} quick")
    add_seed(parser)


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(__doc__, arms=(FRESH, RESUMED), add=add_flags, argv=argv)
    return finish(measure(options), options)


if __name__ == "__main__":
    sys.exit(main())
