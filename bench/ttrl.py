"""Learning beside serving: seconds per update, the pause of a publish, what requests pay.

One client asks without a break, alone and beside a learner that never rests (a server's learner
would wait for quiet). Requests are pinned to the version before learning, so both arms must say
the same. A publish is timed beside an update of the weights in place, which is what an engine
without banks does, its first token after it included.

    python bench/ttrl.py --quick
    python bench/ttrl.py --policy bench-36m --requests 60
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    import rooted  # noqa: F401

import numpy as np

from bench.harness import (
    Check,
    Goal,
    Options,
    Report,
    Timing,
    finish,
    parse_options,
    progress_bar,
    synchronize,
)
from bench.scenes import Scene, scene
from bench.ttrl_group import learner_config, make_learner, question
from pixelis_fast.agent import Agent, AgentConfig, build_agent
from pixelis_fast.loop import Request
from pixelis_fast.phases.ttrl import open_memory
from pixelis_fast.phases.ttrl_learner import TtrlLearner
from pixelis_fast.phases.ttrl_types import TtrlEvent, TtrlStatus
from pixelis_fast.policy.engine import Chunk, Engine
from pixelis_fast.policy.published import Published
from pixelis_fast.rollout import RolloutConfig
from pixelis_fast.serve.learning import stand_back
from pixelis_fast.spans import Spans

OFF, ON = "learner off", "learner on"
ALONE, BUSY = "alone", "beside requests"
SWAP, IN_PLACE = "pointer", "weights in place"
REQUEST, UPDATE, PUBLISH, NEXT_TOKEN = "request", "update", "publish", "publish and next token"
REQUESTS, QUICK_REQUESTS = 40, 8
"""Per arm."""
WINDOW = 4
"""Requests of one arm in a row."""
UPDATES, QUICK_UPDATES = 10, 3
GROUP, QUICK_GROUP = 8, 4
TOKENS = 48
"""Generated per request."""
MAX_PAUSE_MS = 5.0
MAX_FLIPS = 1
"""Answers that may differ between the arms: a sum in another order can turn one draw."""
SCENE = "coffee"


@dataclass
class Asked:
    """What one client saw in one arm."""

    ms: list[float] = field(default_factory=list)
    ids: list[list[int]] = field(default_factory=list)


class Beside:
    """A learner that steps on a thread of its own while it is let."""

    def __init__(self, learner: TtrlLearner, agent: Agent, source: Scene) -> None:
        self._learner, self._agent, self._source = learner, agent, source
        self.events: list[TtrlEvent] = []
        self.busy: list[TtrlEvent] = []
        """Those that ended beside requests."""

    def step(self) -> TtrlEvent:
        number = self._learner.num_queries
        self.events.append(self._learner.step(question(self._agent, self._source, number)))
        return self.events[-1]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Steps until the body ends, and finishes the step at hand."""
        is_over, begun = threading.Event(), threading.Event()

        def work() -> None:
            stand_back()
            while not is_over.is_set():
                begun.set()
                self.busy.append(self.step())

        thread = threading.Thread(target=work, name="learner")
        thread.start()
        try:
            begun.wait()
            yield
        finally:
            is_over.set()
            thread.join()


def ask(agent: Agent, source: Scene, number: int, base: Published, into: Asked) -> None:
    """One greedy request under the base, timed from its submission to its end."""
    request = Request(question(agent, source, number), max_tokens=TOKENS, max_steps=1, under=base)
    start_s = time.perf_counter()
    trajectory = agent.loop.submit(request).result()
    into.ms.append(1e3 * (time.perf_counter() - start_s))
    into.ids.append(list(trajectory.ids))


def serve_both(
    agent: Agent, source: Scene, beside: Beside, base: Published, *, count: int
) -> dict[str, Asked]:
    """Windows of both arms in turn, over the same questions."""
    asked = {OFF: Asked(), ON: Asked()}
    ask(agent, source, 0, base, Asked())
    with progress_bar() as bar:
        task = bar.add_task("requests", total=2 * count)
        for first in range(0, count, WINDOW):
            numbers = range(first, min(first + WINDOW, count))
            for number in numbers:
                ask(agent, source, number, base, asked[OFF])
            with beside.running():
                for number in numbers:
                    ask(agent, source, number, base, asked[ON])
            bar.advance(task, 2 * len(numbers))
    return asked


def next_token(engine: Engine) -> None:
    """A forward of one session opened now."""
    engine.extend([engine.open()], [Chunk(list(range(10, 74)))], spans=Spans())


def time_publishes(
    agent: Agent, banks: Sequence[Published], device: str
) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of the change, and of change and next forward, for both ways in turn."""
    twin = deepcopy(agent.policy)
    engines = {SWAP: Engine(agent.policy, agent.views.patches), IN_PLACE: Engine(
        twin, agent.views.patches)}  # fmt: skip
    found = {name: {SWAP: [], IN_PLACE: []} for name in (PUBLISH, NEXT_TOKEN)}
    for engine in engines.values():
        next_token(engine)
    for number, published in enumerate(banks):
        assert published.bank is not None

        def in_place(published: Published = published, number: int = number) -> None:
            published.bank.merge_into(twin)
            engines[IN_PLACE].publish(f"in place {number}")

        changes = {SWAP: lambda p=published: engines[SWAP].publish_bank(p), IN_PLACE: in_place}
        for way, change in changes.items():
            synchronize(device)
            start_s = time.perf_counter()
            change()
            synchronize(device)
            found[PUBLISH][way].append(1e3 * (time.perf_counter() - start_s))
            next_token(engines[way])
            synchronize(device)
            found[NEXT_TOKEN][way].append(1e3 * (time.perf_counter() - start_s))
    return found


def measure(options: Options) -> Report:
    quick, extra = options.quick, options.extra
    policy = extra.policy or ("unit" if quick else "bench-36m")
    group = QUICK_GROUP if quick else GROUP
    updates = QUICK_UPDATES if quick else UPDATES
    count = extra.requests or (QUICK_REQUESTS if quick else REQUESTS)
    agent = build_agent(
        AgentConfig(
            policy=policy,
            device=options.device,
            threads=options.threads,
            rollout=RolloutConfig(max_thought_tokens=8),
        )
    )
    base, source = Published.base(agent.engine.version), scene(SCENE)
    with tempfile.TemporaryDirectory() as folder:
        config = learner_config(Path(folder), group=group)
        with (
            agent.loop,
            open_memory(agent, config) as memory,
            make_learner(agent, config, memory) as learner,
        ):
            beside = Beside(learner, agent, source)
            quiet = [beside.step() for _ in range(updates + 1)][1:]
            asked = serve_both(agent, source, beside, base, count=count)
            bank = learner.parts.updater.bank
            banks = [Published.of(bank, f"timed {number}") for number in range(updates)]
    pauses = time_publishes(agent, banks, options.device)
    return report_of(options, asked, quiet, beside, pauses, policy=policy, group=group)


def report_of(
    options: Options,
    asked: dict[str, Asked],
    quiet: Sequence[TtrlEvent],
    beside: Beside,
    pauses: dict[str, dict[str, list[float]]],
    *,
    policy: str,
    group: int,
) -> Report:
    report = Report("ttrl", options, ours=ON, baseline={REQUEST: OFF})
    report.timings = [Timing(REQUEST, arm, tuple(each.ms)) for arm, each in asked.items()]
    report.timings += [
        Timing(UPDATE, ALONE, tuple(1e3 * e.seconds["update"] for e in quiet)),
        Timing(
            f"{UPDATE}, whole query", ALONE, tuple(1e3 * sum(e.seconds.values()) for e in quiet)
        ),
        Timing(UPDATE, BUSY, tuple(1e3 * e.seconds["update"] for e in beside.busy)),
    ]
    report.timings += [
        Timing(name, way, tuple(ms)) for name, ways in pauses.items() for way, ms in ways.items()
    ]
    published = [e for e in beside.events if e.status is TtrlStatus.PUBLISHED]
    live_ms = [1e3 * e.update["pause_s"] for e in published]
    report.timings.append(Timing("publish into a running loop", SWAP, tuple(live_ms)))
    flips = sum(a != b for a, b in zip(asked[OFF].ids, asked[ON].ids, strict=True))
    report.checks = [
        Check.at_most(REQUEST, "requests whose tokens differ", flips, MAX_FLIPS),
        Check.same(UPDATE, "queries that published", len(published), len(beside.events)),
        Check.at_least(REQUEST, "updates beside requests", len(beside.busy), 1),
    ]
    worst_ms = max([*live_ms, *pauses[PUBLISH][SWAP]])
    report.goals = [Goal.at_most("publish pause, ms, worst", MAX_PAUSE_MS, round(worst_ms, 4))]
    tails = {arm: float(np.percentile(each.ms, 95)) for arm, each in asked.items()}
    report.extra = {
        "policy": policy,
        "group": group,
        "request_p95_ms": {arm: round(value, 2) for arm, value in tails.items()},
        "request_p95_ratio": round(tails[ON] / tails[OFF], 3),
        "stages_s": stage_means(quiet),
    }
    report.notes.append(f"{policy} has random weights; groups follow scripts")
    ratio = statistics.median(pauses[PUBLISH][IN_PLACE]) / statistics.median(pauses[PUBLISH][SWAP])
    report.notes.append(f"a publish in place takes {ratio:.0f} times a pointer's")
    report.notes.append(f"p95 of a request with the learner on: {tails[ON] / tails[OFF]:.2f}x off")
    return report


def stage_means(events: Sequence[TtrlEvent]) -> dict[str, float]:
    """Seconds by stage of a query's learning, nobody beside it."""
    names = dict.fromkeys(name for event in events for name in event.seconds)
    return {n: round(float(np.mean([e.seconds.get(n, 0.0) for e in events])), 4) for n in names}


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--requests", type=int, help=f"{REQUESTS} per arm, {QUICK_REQUESTS} quick")
    parser.add_argument("--policy", help="bench-36m, or unit quick")


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(__doc__, arms=(OFF, ON), add=add_flags, argv=argv)
    return finish(measure(options), options)


if __name__ == "__main__":
    sys.exit(main())
