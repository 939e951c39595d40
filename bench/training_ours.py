"""Our GRPO step on a scripted group: fused rollout, rewards, one update, publish.

Shapes: V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.pinned import PinnedChain, script_ids
from bench.rollout_cases import GroupCase
from bench.rollout_ours import add_picture, group_samples
from bench.scenes import Scene
from bench.training_cases import NO_CHANGE, reward_of
from bench.training_clock import Clock
from pixelis_fast.advantages import AdvantageConfig, group_advantages, learned_tokens
from pixelis_fast.agent import Agent, open_policy
from pixelis_fast.dynamics import Dynamics
from pixelis_fast.optimizer import MasterAdamW, OptimizerConfig
from pixelis_fast.phases.rft_loss import Learnable, LossConfig, LossMaker
from pixelis_fast.phases.rft_parts import grammar_of
from pixelis_fast.pieces import pieces_of
from pixelis_fast.policy.sampling import mask_logits
from pixelis_fast.rewards import RewardConfig, score_group
from pixelis_fast.script import Script

KL_WEIGHT = 0.02


@dataclass(frozen=True)
class TrainingRun:
    """What one step leaves: its loss, and each member's log-probabilities by place in its ids."""

    loss: float
    logprobs: tuple[dict[int, float], ...]
    stage_ms: dict[str, float]
    rows: int
    """Of the training forward: tokens it computed, padding included."""


class ConstrainedScript(Script):
    """Records a trainer's log-probability, and keeps the one over the whole vocabulary."""

    def __init__(self, ids: Sequence[int], *, banned_ids: Tensor, pinned: PinnedChain) -> None:
        super().__init__(ids, observations=pinned.pieces)
        self._banned_ids = banned_ids
        self.plain: list[float] = []

    def choose(self, logits_V: Tensor, allowed_V: Tensor | None) -> tuple[int, float]:
        token, plain = super().choose(logits_V, allowed_V)
        self.plain.append(plain)
        open_V = mask_logits(logits_V, allowed=allowed_V, banned_ids=self._banned_ids)
        return token, float(torch.log_softmax(open_V, dim=-1)[token])


class OursTrainer:
    """Runs one step after another on the same weights."""

    name = "ours"

    def __init__(self, agent: Agent, pinned: Sequence[PinnedChain]) -> None:
        self._agent, self._pinned = agent, pinned
        agent.policy.requires_grad_(True)
        anchor = open_policy(agent.config).policy.requires_grad_(False)
        self._optimizer = MasterAdamW(
            agent.policy.parameters(),
            OptimizerConfig(learning_rate=NO_CHANGE, warmup_steps=0, weight_decay=0.0),
        )
        self._maker = LossMaker(
            agent.policy,
            anchor,
            LossConfig(kl_weight=KL_WEIGHT),
            grammar=grammar_of(agent),
            banned_ids=agent.loop.banned_ids,
            load_patches=agent.views.patches,
            temperature=1.0,
        )
        self._dynamics = Dynamics(agent.policy.config.text.hidden_size)

    def run(self, case: GroupCase, source: Scene, clock: Clock) -> TrainingRun:
        agent = self._agent
        samples = group_samples(case, add_picture(agent.tools, source))
        scripts = [
            ConstrainedScript(
                script_ids(member, agent.tokenizer), banned_ids=agent.loop.banned_ids, pinned=chain
            )
            for member, chain in zip(case.members, self._pinned, strict=True)
        ]
        with clock("rollout"):
            trajectories = agent.rollout.run(samples, make_chooser=lambda i: scripts[i])
        with clock("rewards"):
            rewards = {t.sample.id: reward_of(i) for i, t in enumerate(trajectories)}
            parts = score_group(
                trajectories,
                RewardConfig.task_only(),
                self._dynamics,
                task=lambda t: rewards[t.sample.id],
            )
            found = group_advantages(
                [each.total for each in parts],
                [0] * len(parts),
                trajectories,
                AdvantageConfig(divide_by_std=False),
            )
        with clock("update"):
            report = self._maker.backward(
                [Learnable(trajectories[i], found.values[i], imitated=False) for i in found.used]
            )
            self._optimizer.step()
            agent.engine.publish(agent.engine.version)
        places = [[i for i, own in enumerate(learned_tokens(t)) if own] for t in trajectories]
        plain = [dict(zip(p, s.plain, strict=True)) for p, s in zip(places, scripts, strict=True)]
        rows = sum(piece.length for piece in pieces_of(trajectories))
        return TrainingRun(report.loss, tuple(plain), clock.take(), rows)
