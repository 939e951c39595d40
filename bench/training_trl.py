"""TRL's GRPOTrainer on the same group: its scoring, loss and step, on transformers' model.

Its rollouts are transformers' generate over the whole group, once per turn (the lockstep arm of
rollout_hf.py), handed in as TRL's `rollout_func` with `env_mask` on the tokens that ours samples:
TRL's own loop over tools generates in the same way. Everything behind the tokens is TRL's.

Shapes: B = members, C = completion tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from PIL import Image
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration
from trl import GRPOConfig, GRPOTrainer

from bench.naive import hf_processor, opening
from bench.pinned import PinnedChain
from bench.rollout_cases import GroupCase
from bench.rollout_hf import HfTwin, ResentArm
from bench.scenes import Scene
from bench.training_cases import TRL_SETTINGS, reward_of
from bench.training_clock import Clock
from bench.training_ours import KL_WEIGHT, TrainingRun
from pixelis_fast.agent import Agent
from pixelis_fast.tools import ToolBox


class TrlTrainer:
    """Runs one step after another on the same weights."""

    name = "trl"

    def __init__(
        self,
        agent: Agent,
        tools: ToolBox,
        case: GroupCase,
        pinned: Sequence[PinnedChain],
        learned: Sequence[Sequence[bool]],
        folder: Path,
    ) -> None:
        """`folder` is the checkpoint that the agent opened; `learned` are ours' sampled tokens."""
        model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        processor = hf_processor(agent.tokenizer, agent.opened.limits)
        processor.tokenizer.padding_side = "left"
        self._pinned, self._learned = pinned, learned
        self._seen: list[Tensor] = []
        self.trainer = GRPOTrainer(
            model=model,
            reward_funcs=fixed_rewards,
            args=settings(folder.parent / "trl", len(pinned)),
            train_dataset=Dataset.from_list([{"prompt": "unused"}] * len(pinned)),
            processing_class=processor,
            rollout_func=self._roll_out,
        )
        self.trainer.create_optimizer()
        self.trainer.current_gradient_accumulation_steps = 1
        self._tap()
        self._arm = ResentArm(
            "trl",
            HfTwin(self.trainer.model, processor),
            tools,
            agent=agent,
            pinned={case.name: tuple(pinned)},
            lockstep=True,
        )

    def run(self, case: GroupCase, source: Scene, clock: Clock) -> TrainingRun:
        self._case, self._source, self._clock = case, source, clock
        self._seen.clear()
        picture = Image.open(BytesIO(source.encoded)).convert("RGB")
        messages = opening(case.members[0], [source], []).messages
        rows = [
            {"prompt": messages, "image": picture, "member": index}
            for index in range(len(case.members))
        ]
        trainer = self.trainer
        trainer.model.train()
        with clock("all"):
            loss = trainer.training_step(trainer.model, rows, None)
            trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), 1.0)
            trainer.optimizer.step()
            trainer.model.zero_grad()
        stages = clock.take()
        stages["update"] = stages.pop("all") - stages["rollout"]
        inputs = trainer._buffered_inputs[0]
        rows = inputs["prompt_ids"].numel() + inputs["completion_ids"].numel()
        return TrainingRun(float(loss), self._logprobs(), stages, rows)

    def _roll_out(self, prompts: Any, trainer: Any) -> dict[str, Any]:
        with self._clock("rollout"):
            self._arm.run(self._case, self._source)
        starts = [chain.turns[0][0] for chain in self._pinned]
        pairs = list(zip(self._pinned, starts, strict=True))
        masks = zip(self._learned, starts, strict=True)
        return {
            "prompt_ids": [chain.ids[:start] for chain, start in pairs],
            "completion_ids": [chain.ids[start:] for chain, start in pairs],
            "logprobs": None,
            "env_mask": [[int(own) for own in learned[start:]] for learned, start in masks],
        }

    def _tap(self) -> None:
        """Keeps the log-probabilities that its loss is made of."""
        inner = self.trainer._get_per_token_logps_and_entropies

        def tapped(model: Any, *given: Any, **named: Any) -> Any:
            found = inner(model, *given, **named)
            if torch.is_grad_enabled():
                self._seen.append(found[0].detach())
            return found

        self.trainer._get_per_token_logps_and_entropies = tapped

    def _logprobs(self) -> tuple[dict[int, float], ...]:
        """By place in each member's ids; TRL shuffles members, so rows find theirs by their ids."""
        [logprobs_BC] = self._seen
        order = self.trainer._buffered_inputs[0]["completion_ids"].tolist()
        found: list[dict[int, float]] = [{}] * len(self._pinned)
        for row, ids in enumerate(order):
            index = next(i for i, chain in enumerate(self._pinned) if begins(ids, chain))
            start = self._pinned[index].turns[0][0]
            values = logprobs_BC[row].tolist()
            owned = enumerate(self._learned[index][start:])
            found[index] = {start + i: values[i] for i, own in owned if own}
        return tuple(found)


def begins(ids: Sequence[int], chain: PinnedChain) -> bool:
    """Whether a padded completion is this chain's."""
    own = chain.ids[chain.turns[0][0] :]
    return list(ids[: len(own)]) == own


def fixed_rewards(member: Sequence[int], **_: Any) -> list[float]:
    return [reward_of(index) for index in member]


def settings(folder: Path, members: int) -> GRPOConfig:
    """As ours: token mean, rewards in their own unit, DAPO's clip, AdamW, the KL of 0.02."""
    return GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=members,
        num_generations=members,
        gradient_accumulation_steps=1,
        beta=KL_WEIGHT,
        loss_type="bnpo",
        scale_rewards="none",
        epsilon=0.2,
        epsilon_high=0.28,
        max_completion_length=4096,
        **TRL_SETTINGS,
    )
