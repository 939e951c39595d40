"""The loop beside transformers' generate: groups of chains with tools, history re-sent or kept.

G members of a group make T tool calls each and answer. The arms compute the same scripted tokens
with the same weights and call the same tools; they differ in the loop alone. Equal work means the
same greedy choice at every generated position. Processor time counts both cores, wall time does
not: with tools running beside the policy the two part.

    python bench/rollout.py --quick
    python bench/rollout.py --cases G8-T5 --ablate
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import Any

if __name__ == "__main__":
    import rooted  # noqa: F401

    # Nothing here may fetch weights.
    os.environ["HF_HUB_OFFLINE"] = "1"

import cv2
import transformers
from rich.progress import Progress

from bench.harness import (
    Check,
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
from bench.latency import add_flags, agent_config
from bench.pinned import PinnedChain
from bench.rollout_ablations import ABLATIONS, EVERY_TOKEN, ablations_of
from bench.rollout_cases import SCENE, GroupCase, chosen_groups, largest
from bench.rollout_hf import HfTwin, ResentArm
from bench.rollout_ours import GroupOurs, ToolsAlone, beginning, reference_group
from bench.rollout_report import ablation_table, goals_of, loop_table, speed_table, stage_table
from bench.rollout_runs import (
    LOCKSTEP,
    OURS,
    SERIAL,
    TOOLS_ALONE,
    GroupArm,
    agreement,
    check_computed,
    check_ids,
    compare,
    median_stages,
    tokens_equal,
)
from bench.scenes import fresh, scene
from pixelis_fast.agent import Agent, build_agent
from pixelis_fast.tools import ToolBox, open_tools

ARMS = (SERIAL, LOCKSTEP, OURS)
RUNS = 1
"""A run of a group of 8 is 8 chains; --runs asks for more."""
NO_LOCKSTEP = frozenset({"G8-T4", "G8-T8"})
"""Where lockstep, a quarter hour more, runs only when --cases names the group."""
ABLATED = "G8-T5"
"""The group of --ablate; the last one where it does not run."""
MAX_TIME_S = 3600.0
"""Per trajectory: the slowest ablation must end by itself."""


@dataclass(frozen=True)
class Bench:
    """All that is loaded before the clock starts."""

    agent: Agent
    arms: dict[str, GroupArm]
    pinned: dict[str, tuple[PinnedChain, ...]]


def open_agent(options: Options, cases: Sequence[GroupCase]) -> Agent:
    config = agent_config(options)
    steps = max(case.num_steps for case in cases)
    rollout = replace(config.rollout, max_steps=steps, max_time_s=MAX_TIME_S, overlap=True)
    return build_agent(replace(config, rollout=rollout))


def set_up(cases: Sequence[GroupCase], options: Options, *, bar: Progress) -> Bench:
    """The agent, one toolbox per arm, and the tokens of every group."""
    task = bar.add_task("set-up: our agent", total=3)
    agent = open_agent(options, cases)
    bar.advance(task)
    bar.update(task, description="set-up: tokens")
    chains = reference_group(agent, largest(cases), scene(SCENE))
    pinned = {case.name: beginning(chains, case) for case in cases}
    bar.advance(task)
    bar.update(task, description="set-up: arms")
    arms: dict[str, GroupArm] = {}
    if {SERIAL, LOCKSTEP} & set(options.arms):
        arms |= resent_arms(agent, pinned, options, warm=cases[0])
    if OURS in options.arms:
        arms |= our_arms(agent, pinned, ablate=options.ablate, warm=cases[0])
    bar.advance(task)
    return Bench(agent, arms, pinned)


def resent_arms(
    agent: Agent, pinned: dict[str, tuple[PinnedChain, ...]], options: Options, *, warm: GroupCase
) -> dict[str, GroupArm]:
    twin = HfTwin.of(agent)
    arms: dict[str, GroupArm] = {}
    for name in (name for name in (SERIAL, LOCKSTEP) if name in options.arms):
        tools = warm_tools(own_tools(agent), warm)
        arm = ResentArm(name, twin, tools, agent=agent, pinned=pinned, lockstep=name == LOCKSTEP)
        arm.warm_up(warm, scene(SCENE))
        arms[name] = arm
    return arms


def our_arms(
    agent: Agent, pinned: dict[str, tuple[PinnedChain, ...]], *, ablate: bool, warm: GroupCase
) -> dict[str, GroupArm]:
    """Ours, ours without forced runs, the tools alone, and the ablations when asked for."""
    arms: dict[str, GroupArm] = {OURS: GroupOurs(OURS, agent, pinned)}
    for name in ablations_of(agent) if ablate else (EVERY_TOKEN,):
        changed = ABLATIONS[name].change(agent)
        warm_tools(changed.tools, warm)
        arms[name] = GroupOurs(name, changed, pinned, one_by_one=ABLATIONS[name].one_by_one)
    arms[TOOLS_ALONE] = ToolsAlone(warm_tools(own_tools(agent), warm))
    return arms


def own_tools(agent: Agent) -> ToolBox:
    """The agent's tools again, so that no arm finds another's results."""
    config = agent.config
    return open_tools(config.tools, device=config.device, threads=config.threads)


def warm_tools(tools: ToolBox, case: GroupCase) -> ToolBox:
    """Models of the tools are loaded at their first call."""
    ToolsAlone(tools).run(case, scene(SCENE))
    return tools


def ablated_group(cases: Sequence[GroupCase]) -> GroupCase:
    return next((case for case in cases if case.name == ABLATED), cases[-1])


def arms_of(case: GroupCase, bench: Bench, *, ablate: bool, is_named: bool) -> dict[str, GroupArm]:
    """One member alone makes no batch; most ablations run on one group only."""
    left_out = set() if ablate else set(ABLATIONS) - {EVERY_TOKEN}
    is_long = case.name in NO_LOCKSTEP and not is_named
    if SERIAL in bench.arms and (case.size == 1 or is_long):
        left_out |= {LOCKSTEP}
    return {name: arm for name, arm in bench.arms.items() if name not in left_out}


def left_out_notes(cases: Sequence[GroupCase], options: Options) -> list[str]:
    names = sorted(NO_LOCKSTEP & {case.name for case in cases})
    if options.extra.cases or not names or LOCKSTEP not in options.arms:
        return []
    return [f"{LOCKSTEP} did not run on {', '.join(names)}: --cases runs it where it is told to"]


def run_case(
    case: GroupCase,
    arms: Mapping[str, GroupArm],
    *,
    runs: int,
    nonces: Callable[[], int],
    device: str,
    bar: Progress,
) -> dict[str, Samples]:
    """Every arm's runs of one group, interleaved; run i of all arms sees the same new picture."""
    task = bar.add_task(case.name, total=runs * len(arms))
    pictures = [fresh(scene(SCENE), nonces()) for _ in range(runs)]

    def call(arm: GroupArm) -> Callable[[], Any]:
        number = count()
        return lambda: arm.run(case, pictures[next(number)])

    return interleave(
        {name: call(arm) for name, arm in arms.items()},
        warmup=0,
        runs=runs,
        device=device,
        tick=lambda arm: bar.advance(task, 1),
    )


def checks_of(case: GroupCase, samples: Mapping[str, Samples], bench: Bench) -> list[Check]:
    """Each arm against the pinned ids and against the first arm that ran."""
    policies = [name for name in samples if name != TOOLS_ALONE]
    expected = samples[policies[0]].results
    pinned = bench.pinned[case.name]
    checks: list[Check] = []
    for name in policies:
        runs = samples[name].results
        checks.append(check_ids(case, name, runs, pinned))
        checks.append(
            check_computed(case, name, runs, pinned, may_force=may_force(name, bench.agent))
        )
        if name != policies[0]:
            checks += compare(case, name, expected, runs, dtype=dtype_of(name, bench.agent))
    return checks


def may_force(arm: str, agent: Agent) -> bool:
    """Whether the grammar's forced runs are on in this arm."""
    is_ours = arm == OURS or arm in ABLATIONS
    return is_ours and arm != EVERY_TOKEN and agent.config.rollout.jump_ahead


def dtype_of(arm: str, agent: Agent) -> str:
    ablation = ABLATIONS.get(arm)
    return (ablation and ablation.dtype) or agent.config.dtype


def timings_of(
    case: GroupCase, samples: Mapping[str, Samples], checks: Sequence[Check]
) -> list[Timing]:
    """Wall and processor time, stages, and whether the tokens were equal."""
    policies = [name for name in samples if name != TOOLS_ALONE]
    timings = []
    for name, sample in samples.items():
        extra: dict[str, Any] = {"stage_ms": median_stages(sample.results)}
        if name in policies:
            found = agreement(samples[policies[0]].results, sample.results)
            extra |= {
                "tokens_equal": tokens_equal(checks, case.name, name) and not found.num_flipped,
                "same_greedy_choice": round(found.share, 5),
                "compared": found.num_compared,
            }
        timings.append(timed(case.name, name, sample, **extra))
    return timings


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(__doc__, arms=ARMS, add=add_flags, argv=argv)
    if options.ablate and OURS not in options.arms:
        raise SystemExit("--ablate: expected ours among --arms, every ablation is against it")
    try:
        cases = chosen_groups(quick=options.quick, names=options.extra.cases)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    transformers.utils.logging.set_verbosity_error()
    cv2.setNumThreads(options.threads)
    report = Report("rollout", options, ours=OURS, baseline=SERIAL)
    nonces = count(1)
    with progress_bar() as bar:
        bench = set_up(cases, options, bar=bar)
        report.notes += [*bench.agent.degraded, *left_out_notes(cases, options)]
        for case in cases:
            arms = arms_of(
                case,
                bench,
                ablate=case is ablated_group(cases),
                is_named=bool(options.extra.cases),
            )
            samples = run_case(
                case,
                arms,
                runs=options.runs or RUNS,
                nonces=lambda: next(nonces),
                device=options.device,
                bar=bar,
            )
            checks = checks_of(case, samples, bench)
            report.checks += checks
            report.timings += timings_of(case, samples, checks)
    report.goals += goals_of(report, cases)
    counted = asdict(bench.agent.loop.stats())
    tables = [speed_table(report), stage_table(report), loop_table(counted)]
    if options.ablate:
        tables.append(ablation_table(report, ablated_group(cases).name))
    report.tables += [rich_table(table) for table in tables]
    config = bench.agent.config
    report.extra |= {"tables": tables, "policy": config.policy, "dtype": config.dtype}
    report.extra["loop"] = counted
    return finish(report, options)


if __name__ == "__main__":
    sys.exit(main())
