"""Training beside TRL: a supervised step, and a GRPO step with tools from rollouts to new weights.

`sft` (training_sft.py): one step on chains of PixelWorld. `G8-T3`: a group of eight scripted chains
calls the same three tools in both arms on the same small model, and earns the same rewards; TRL's
GRPOTrainer generates with transformers, ours with the fused loop. Weights stay what they are (a
learning rate of 1e-30), so every run is the same problem. Equal work means the same loss, and the
same log-probability of every token that ours samples, within 1e-3. Needs `trl`.

    python bench/training.py --quick
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    import rooted  # noqa: F401

    # Nothing here may fetch weights.
    os.environ["HF_HUB_OFFLINE"] = "1"

import statistics

import transformers

from bench.flags import listed
from bench.harness import (
    Check,
    Goal,
    Options,
    Report,
    Samples,
    finish,
    interleave,
    parse_options,
    timed,
)
from bench.rollout_cases import SCENE, GroupCase
from bench.rollout_ours import ToolsAlone, reference_group
from bench.scenes import fresh, scene
from bench.training_cases import FULL, QUICK, training_case
from bench.training_clock import Clock
from bench.training_ours import OursTrainer, TrainingRun
from bench.training_sft import (
    CHAINS,
    QUICK_CHAINS,
    SFT,
    SftStep,
    make_chains,
    memory_of,
    open_trainer,
)
from pixelis_fast.advantages import learned_tokens
from pixelis_fast.agent import Agent, AgentConfig, build_agent, open_policy
from pixelis_fast.checkpoint_folder import save_folder
from pixelis_fast.rollout import RolloutConfig
from pixelis_fast.tools import ToolBox, open_tools
from pixelis_fast.types import Trajectory

OURS, TRL = "ours", "trl"
POLICY = "pixelworld-5m"
"""Its prompt has no list of tools, which TRL's rollout_func could not show the model."""
RUNS, QUICK_RUNS = 5, 2
MAX_LOSS_DIFFERENCE = 1e-3
MAX_LOGPROB_DIFFERENCE = 1e-3
SPEED_GOAL = 2.0


def open_agent(options: Options, folder: Path) -> Agent:
    """The policy from a folder that both arms load."""
    config = AgentConfig(
        policy=options.extra.policy,
        random_weights=True,
        device=options.device,
        threads=options.threads,
    )
    opened = open_policy(config)
    save_folder(folder, opened.policy, tokenizer=opened.tokenizer, limits=opened.limits)
    rollout = RolloutConfig(embeddings=True, max_time_s=3600.0, overlap=True)
    return build_agent(replace(config, policy=str(folder), random_weights=False, rollout=rollout))


def own_tools(agent: Agent, case: GroupCase) -> ToolBox:
    """The agent's tools again, loaded, so that no arm finds another's results."""
    config = agent.config
    tools = open_tools(config.tools, device=config.device, threads=config.threads)
    ToolsAlone(tools).run(case, scene(SCENE))
    return tools


def sampled_by_ours(agent: Agent, case: GroupCase) -> tuple[Any, list[list[bool]]]:
    """The pinned chains, and which of their tokens the grammar does not force."""
    kept: list[Trajectory] = []
    run = agent.rollout.run

    def keeping(*given: Any, **named: Any) -> list[Trajectory]:
        kept.extend(run(*given, **named))
        return kept

    agent.rollout.run = keeping  # type: ignore[method-assign]
    try:
        pinned = reference_group(agent, case, scene(SCENE))
    finally:
        agent.rollout.run = run  # type: ignore[method-assign]
    return pinned, [learned_tokens(trajectory) for trajectory in kept]


def run_case(agent: Agent, case: GroupCase, options: Options, nonces: Callable[[], int],
             folder: Path) -> dict[str, Samples]:  # fmt: skip
    pinned, learned = sampled_by_ours(agent, case)
    arms: dict[str, Any] = {}
    if OURS in options.arms:
        arms[OURS] = OursTrainer(agent, pinned)
    if TRL in options.arms:
        from bench.training_trl import TrlTrainer

        tools = own_tools(agent, case)
        arms[TRL] = TrlTrainer(agent, tools, case, pinned, learned, folder)
    runs = options.runs or (QUICK_RUNS if options.quick else RUNS)
    pictures = [fresh(scene(SCENE), nonces()) for _ in range(runs + 1)]

    def call(arm: Any) -> Callable[[], TrainingRun]:
        number, clock = count(), Clock()
        return lambda: arm.run(case, pictures[next(number)], clock)

    return interleave(
        {name: call(arm) for name, arm in arms.items()}, warmup=1, runs=runs, device=options.device
    )


def checks_of(case: str, samples: dict[str, Samples]) -> list[Check]:
    if not {OURS, TRL} <= samples.keys():
        return []
    pairs = list(zip(samples[OURS].results, samples[TRL].results, strict=True))
    loss = max(abs(ours.loss - trl.loss) for ours, trl in pairs)
    apart = [
        abs(mine[place] - theirs[place])
        for ours, trl in pairs
        for mine, theirs in zip(ours.logprobs, trl.logprobs, strict=True)
        for place in mine
    ]
    return [
        Check.at_most(case, "largest difference of the loss", loss, MAX_LOSS_DIFFERENCE),
        Check.at_most(case, f"of {len(apart)} log-probs", max(apart), MAX_LOGPROB_DIFFERENCE),
    ]


def stages_of(samples: Samples) -> dict[str, float]:
    names = samples.results[0].stage_ms
    return {
        name: round(statistics.median(r.stage_ms[name] for r in samples.results), 3)
        for name in names
    }


def run_sft(report: Report, options: Options, folder: Path) -> None:
    """Adds the supervised step's timings and its check."""
    number = QUICK_CHAINS if options.quick else CHAINS
    data = make_chains(folder.parent / "chains", options.extra.policy, number)
    trainers = {arm: open_trainer(arm, folder, data) for arm in options.arms}
    runs = options.runs or (QUICK_RUNS if options.quick else RUNS)
    samples = interleave(
        {arm: trainer.step for arm, trainer in trainers.items()},
        warmup=1,
        runs=runs,
        device=options.device,
    )
    if {OURS, TRL} <= samples.keys():
        pairs = zip(samples[OURS].results, samples[TRL].results, strict=True)
        apart = max(abs(ours.loss - trl.loss) for ours, trl in pairs)
        found = Check.at_most(SFT, "largest difference of the loss", apart, MAX_LOSS_DIFFERENCE)
        report.checks.append(found)
    for arm, each in samples.items():
        step: SftStep = each.results[0]
        memory = memory_of(arm, folder, data, threads=options.threads)
        speed = {"tokens_per_s": round(1e3 * step.tokens / statistics.median(each.ms), 1)}
        sizes = {"tokens": step.tokens, "rows": step.rows, "memory_mb": asdict(memory)}
        report.timings.append(timed(SFT, arm, each, **speed, **sizes))


def add_flags(parser: Any) -> None:
    parser.add_argument("--policy", default=POLICY, help="a preset; random weights")
    parser.add_argument("--cases", default="", help="comma list of sft and groups, as in G8-T3")


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(__doc__, arms=(TRL, OURS), add=add_flags, argv=argv)
    if options.device != "cpu":
        raise SystemExit(f"--device: expected cpu, got {options.device}")
    if TRL in options.arms and find_spec("trl") is None:
        raise SystemExit("--arms: expected trl to be installed, or --arms ours (pip install trl)")
    names = listed(options.extra.cases) or (SFT, *(QUICK if options.quick else FULL))
    cases = [training_case(name) for name in names if name != SFT]
    transformers.utils.logging.set_verbosity_error()
    report = Report("training", options, ours=OURS, baseline=TRL)
    nonces = count(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "policy"
        agent = open_agent(options, folder)
        if SFT in names:
            run_sft(report, options, folder)
        for case in cases:
            samples = run_case(agent, case, options, lambda: next(nonces), folder)
            report.checks += checks_of(case.name, samples)
            for arm, found in samples.items():
                extra = {"stage_ms": stages_of(found), "rows": found.results[0].rows}
                report.timings.append(timed(case.name, arm, found, **extra))
    report.notes += agent.degraded
    report.goals += [
        Goal.at_least(f"{name}: GRPO step, times TRL's speed", SPEED_GOAL, ratio)
        for name, ratio in report.ratios().items()
        if name != SFT
    ]
    return finish(report, options)


if __name__ == "__main__":
    sys.exit(main())
