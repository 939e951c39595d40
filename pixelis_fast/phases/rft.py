"""Phase 2: Curiosity-Coherence reward fine-tuning (METHOD.md).

    python -m pixelis_fast.phases.rft --policy runs/sft/policy --out runs/rft

A step: draw prompts, roll a group out on each, score part by part, compare within groups, one
clipped policy-gradient update with an exact KL to the policy it began as, publish. All that is
random follows from the seed and the step's number, so a run that is killed and started again ends
with the same bits (rollouts in step: `RolloutConfig(overlap=False)`).

What is ours: the repetition hinge, learning progress against a snapshot, the rule that an invalid
call forfeits what the shaped parts pay, the stages' bars (METHOD.md marks them), and the floor
under the spread that a group's advantages are divided by.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from pixelis_fast.agent import AgentConfig
from pixelis_fast.phases.rft_config import RftConfig
from pixelis_fast.phases.rft_loss import LossConfig
from pixelis_fast.phases.rft_run import RftRun
from pixelis_fast.phases.rft_source import PixelWorldSamples, RecordSamples, SampleSource
from pixelis_fast.rewards import RewardConfig
from pixelis_fast.rollout import RolloutConfig

__all__ = ["RftConfig", "main"]
TASKS_PER_SEED = 1_000_000
"""Each seed has PixelWorld tasks of its own; the first million is supervised training's."""


class Ablation(Enum):
    """Which parts of the reward are left out."""

    NONE = "none"
    COHERENCE = "coherence"
    CURIOSITY = "curiosity"
    SHAPING = "shaping"
    """All but the task."""


def main(config: RftConfig) -> Path:
    """Trains, or goes on training; the folder of the checkpoint."""
    return RftRun(config).train()


def rewards_without(ablation: Ablation) -> RewardConfig:
    return {
        Ablation.NONE: RewardConfig(),
        Ablation.COHERENCE: RewardConfig(coherence=0.0),
        Ablation.CURIOSITY: RewardConfig(curiosity=0.0),
        Ablation.SHAPING: RewardConfig.task_only(),
    }[ablation]


def source_of(data: Path | None, out: Path, *, seed: int) -> SampleSource:
    """A folder of records, or PixelWorld's own tasks."""
    if data is not None:
        return RecordSamples(data, seed=seed)
    return PixelWorldSamples(out / "media", first=(seed + 1) * TASKS_PER_SEED)


def command(
    policy: Annotated[str, typer.Option(help="Checkpoint folder to begin with.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; started again, it goes on.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder of records; without one, PixelWorld.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of rollouts and update.")] = 200,
    prompts: Annotated[int, typer.Option(help="Questions per step.")] = 4,
    group: Annotated[int, typer.Option(help="Trajectories per question.")] = 8,
    rate: Annotated[float, typer.Option(help="Learning rate.")] = 2e-5,
    kl: Annotated[float, typer.Option(help="Weight of the KL to the policy it began as.")] = 0.05,
    without: Annotated[Ablation, typer.Option(help="Leave out parts of the reward.")] = (
        Ablation.NONE
    ),
    lora_rank: Annotated[int, typer.Option(help="0 trains every weight.")] = 0,
    max_steps: Annotated[int, typer.Option(help="Calls per trajectory.")] = 6,
    max_tokens: Annotated[int, typer.Option(help="Generated tokens per trajectory.")] = 400,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    threads: Annotated[int, typer.Option(help="Compute threads.")] = 2,
    seed: Annotated[int, typer.Option(help="Of questions and sampling.")] = 0,
) -> None:
    """Curiosity-Coherence reward fine-tuning."""
    rollout = RolloutConfig(max_steps=max_steps, max_tokens=max_tokens, overlap=False)
    agent = AgentConfig(policy=policy, device=device, dtype=dtype, threads=threads, rollout=rollout)
    config = RftConfig(
        agent,
        source_of(data, out, seed=seed),
        out=str(out),
        steps=steps,
        prompts=prompts,
        group=group,
        lora_rank=lora_rank,
        loss=LossConfig(kl_weight=kl),
        rewards=rewards_without(without),
        seed=seed,
    )
    config = replace(config, optimizer=replace(config.optimizer, learning_rate=rate))
    typer.echo(f"policy: {main(config)}")


if __name__ == "__main__":
    typer.run(command)
