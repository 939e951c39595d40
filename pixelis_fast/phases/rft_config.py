"""What decides a run of reinforcement fine-tuning."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from pixelis_fast.advantages import AdvantageConfig
from pixelis_fast.agent import AgentConfig
from pixelis_fast.loop_types import check_positive
from pixelis_fast.optimizer import OptimizerConfig
from pixelis_fast.phases.rft_loss import LossConfig
from pixelis_fast.phases.rft_source import SampleSource
from pixelis_fast.policy.sampling import Sampling
from pixelis_fast.reward_stages import StagesConfig
from pixelis_fast.rewards import RewardConfig, TaskReward, task_reward

LEAST_SPREAD = 0.1
"""A third of what one right answer among eight makes of a group (0.33), and about twice what
lengths, coherence and curiosity make of one whose answers are equal."""


@dataclass(frozen=True)
class RftConfig:
    """All that decides a run.

    Example:
        main(RftConfig(AgentConfig(policy="runs/sft/policy"), source, out="runs/rft"))
    """

    agent: AgentConfig
    """The policy to begin with, and the limits of its rollouts but for wall time."""
    source: SampleSource
    out: str
    task_reward: TaskReward = task_reward
    """Scores an answer; a caller's own may look at the whole trajectory."""
    steps: int = 200
    prompts: int = 4
    """Groups per step."""
    group: int = 8
    """Trajectories of each."""
    max_time_s: float = 3600.0
    """Wall time per trajectory, against one that hangs: a clock that cuts more than those would
    decide what is learned, and a run would not end twice with the same bits."""
    temperature: float = 1.0
    minibatches: int = 1
    """Updates per step; from the second on the ratio is no longer 1."""
    lora_rank: int = 0
    """0 trains every weight; above, a bank of this rank, and the anchor is the policy below it."""
    train_vision: bool = True
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            learning_rate=2e-5, warmup_steps=5, final_share=1.0, weight_decay=0.0
        )
    )
    loss: LossConfig = field(default_factory=LossConfig)
    rewards: RewardConfig = field(default_factory=RewardConfig)
    advantages: AdvantageConfig = field(
        default_factory=lambda: AdvantageConfig(least_spread=LEAST_SPREAD)
    )
    stages: StagesConfig = field(default_factory=StagesConfig)
    seed: int = 0
    save_every: int = 20

    def __post_init__(self) -> None:
        check_positive(
            self, "steps", "prompts", "minibatches", "save_every", "temperature", "max_time_s"
        )
        if self.group < 2:
            raise ValueError(f"group: expected >= 2 to compare, got {self.group}")
        if self.lora_rank < 0:
            raise ValueError(f"lora_rank: expected >= 0, got {self.lora_rank}")
        if self.agent.int8:
            raise ValueError("agent.int8: expected False, got weights that only decode")
        rollout = self.agent.rollout
        if not rollout.grammar or rollout.call_sampling is not None:
            raise ValueError("agent.rollout: expected grammar and one sampling for all tokens")
        if rollout.sampling != Sampling():
            raise ValueError(
                "agent.rollout.sampling: expected the default beside the run's own temperature and "
                f"seed, got {rollout.sampling}"
            )

    def run_settings(self) -> dict[str, Any]:
        """What a run that is resumed must share with the one it resumes, as JSON reads it."""
        row = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for name in ("out", "task_reward", "steps", "save_every"):
            row.pop(name)
        row["source"] = self.source.settings()
        row["agent"] = self.agent.to_json() | {"threads": None}
        for name in ("optimizer", "loss", "rewards", "advantages", "stages"):
            row[name] = asdict(row[name])
        return json.loads(json.dumps(row))
