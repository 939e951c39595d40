"""One run of reinforcement fine-tuning: its parts, its step, how it stops and goes on."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from pixelis_fast.advantages import GroupAdvantages, group_advantages
from pixelis_fast.agent import open_policy
from pixelis_fast.checkpoint_folder import save_folder
from pixelis_fast.dynamics import Dynamics
from pixelis_fast.optimizer import MasterAdamW, StepReport
from pixelis_fast.phases.rft_config import RftConfig
from pixelis_fast.phases.rft_loss import Learnable, LossMaker, LossReport
from pixelis_fast.phases.rft_parts import (
    best_of_groups,
    first_seed,
    grammar_of,
    new_bank,
    open_agent,
    split,
)
from pixelis_fast.phases.rft_rows import (
    finite,
    group_row,
    reward_row,
    rollout_row,
    shown,
    step_row,
    update_row,
)
from pixelis_fast.policy.mismatch import MismatchAlarm
from pixelis_fast.policy.published import Published
from pixelis_fast.policy.sampling import Sampling
from pixelis_fast.progress import step_bar
from pixelis_fast.reward_stages import Stages
from pixelis_fast.rewards import score_group, transitions_of
from pixelis_fast.rollout import first_failure
from pixelis_fast.snapshots import check_settings, cut_log, latest_snapshot, save_snapshot
from pixelis_fast.types import RewardParts, Trajectory

LOG, POLICY, ADAPTER, SNAPSHOTS = "log.jsonl", "policy", "adapter", "snapshots"


class RftRun:
    """One run's parts.

    Example:
        RftRun(config).train()
    """

    def __init__(self, config: RftConfig) -> None:
        self.config, self.out = config, Path(config.out)
        self.agent = open_agent(config)
        policy = self.agent.policy
        self.bank = new_bank(config, self.agent)
        policy.requires_grad_(self.bank is None)
        policy.vision.requires_grad_(self.bank is None and config.train_vision)
        learned = policy.parameters() if self.bank is None else self.bank.parameters()
        self.optimizer = MasterAdamW(learned, config.optimizer)
        # A bank leaves the policy below it as it was: that is the anchor.
        anchor = (
            policy
            if self.bank is not None
            else open_policy(config.agent).policy.requires_grad_(False)
        )
        self.maker = LossMaker(
            policy,
            anchor,
            config.loss,
            grammar=grammar_of(self.agent),
            banned_ids=self.agent.loop.banned_ids,
            load_patches=self.agent.views.patches,
            temperature=config.temperature,
            bank=self.bank,
        )
        size = policy.config.text.hidden_size
        self.dynamics = Dynamics(size, config.rewards.dynamics, seed=config.seed)
        self.stages = Stages(config.stages)
        self.alarm = MismatchAlarm.for_dtype(policy.dtype)
        self.step_number = 0

    def train(self) -> Path:
        """The folder of the trained checkpoint."""
        self.resume()
        with step_bar("rft", self.config.steps, start=self.step_number) as advance:
            while self.step_number < self.config.steps:
                row = self.step()
                self.log(row)
                advance(shown(row))
                if self.is_due():
                    self.save()
        return self.finish()

    def is_due(self) -> bool:
        """A snapshot after this step."""
        number = self.step_number
        return number % self.config.save_every == 0 or number == self.config.steps

    def step(self) -> dict[str, Any]:
        """Roll out, score, compare, learn, publish."""
        started_s = time.perf_counter()
        trajectories = self.roll_out()
        rolled_s = time.perf_counter()
        stage = self.stages.stage
        parts = self.score(trajectories)
        found = self.compare(trajectories, parts)
        row: dict[str, Any] = {"rollout/error": first_failure(trajectories)}
        row |= rollout_row(trajectories) | reward_row(parts) | group_row(found)
        # After the rewards: a transition pays what it teaches the first time.
        transitions = [each for t in trajectories for each in transitions_of(t)]
        row["dynamics/error"] = self.dynamics.learn(transitions)
        scored_s = time.perf_counter()
        row |= self.update(trajectories, parts, found)
        self.config.source.release([t.sample for t in trajectories], self.agent.tools)
        self.step_number += 1
        self.publish()
        self.stages.record(row["reward/task"])
        ended_s = time.perf_counter()
        seconds = {
            "seconds/rollout": rolled_s - started_s,
            "seconds/rewards": scored_s - rolled_s,
            "seconds/update": ended_s - scored_s,
        }
        return {"step": self.step_number, "stage": stage.name.lower()} | row | seconds

    def roll_out(self) -> list[Trajectory]:
        """A group of trajectories for each prompt, one group after another."""
        config, step = self.config, self.step_number
        indices = range(step * config.prompts, (step + 1) * config.prompts)
        samples = [config.source(index, self.agent.tools) for index in indices]
        asked = [sample for sample in samples for _ in range(config.group)]
        sampling = Sampling(temperature=config.temperature, seed=first_seed(config, step))
        rollout = self.agent.rollout.with_config(
            replace(self.agent.rollout.config, sampling=sampling)
        )
        return rollout.run(asked)

    def score(self, trajectories: list[Trajectory]) -> list[RewardParts]:
        config = self.config
        return score_group(
            trajectories, config.rewards, self.dynamics, self.stages.stage, task=config.task_reward
        )

    def compare(self, trajectories: list[Trajectory], parts: list[RewardParts]) -> GroupAdvantages:
        groups = [i // self.config.group for i in range(len(trajectories))]
        totals = [each.total for each in parts]
        return group_advantages(totals, groups, trajectories, self.config.advantages)

    def update(
        self, trajectories: list[Trajectory], parts: list[RewardParts], found: GroupAdvantages
    ) -> dict[str, Any]:
        """One optimizer step per mini-batch; nothing where every group was dropped."""
        learnables = self.learnables(trajectories, parts, found)
        if not learnables:
            return {}
        reports: list[LossReport] = []
        steps: list[StepReport] = []
        for batch in split(learnables, self.config.minibatches):
            reports.append(self.maker.backward(batch))
            # Later mini-batches have moved on from the rollout on purpose.
            if len(reports) == 1:
                mismatch = self.alarm.check(reports[0].rollout_M, reports[0].trainer_M)
            steps.append(self.optimizer.step())
        return update_row(reports, mismatch) | step_row(steps)

    def learnables(
        self, trajectories: list[Trajectory], parts: list[RewardParts], found: GroupAdvantages
    ) -> list[Learnable]:
        best = best_of_groups(parts, self.config.group)
        return [Learnable(trajectories[i], found.values[i], imitated=i in best) for i in found.used]

    def publish(self) -> None:
        """The next rollouts are the new policy's."""
        version = f"rft-{self.step_number}"
        if self.bank is None:
            self.agent.engine.publish(version)
        else:
            self.agent.engine.publish_bank(Published.of(self.bank, version))

    def log(self, row: dict[str, Any]) -> None:
        with (self.out / LOG).open("a") as file:
            file.write(json.dumps(finite(row)) + "\n")

    def save(self) -> None:
        """All that the next step depends on; a kill leaves this state or the one before."""
        state = {
            "settings": json.dumps(self.config.run_settings()),
            "step": self.step_number,
            "optimizer": self.optimizer.state(),
            "dynamics": self.dynamics.state_dict(),
            "stages": self.stages.state_dict(),
        }
        save_snapshot(self.out / SNAPSHOTS, self.step_number, state)

    def resume(self) -> None:
        """From the newest snapshot; ValueError where that run had other settings."""
        self.out.mkdir(parents=True, exist_ok=True)
        state = latest_snapshot(self.out / SNAPSHOTS)
        if state is not None:
            check_settings(json.loads(state["settings"]), self.config.run_settings(), self.out)
        self.step_number = 0 if state is None else state["step"]
        cut_log(self.out / LOG, self.step_number)
        if state is None:
            return
        self.optimizer.load(state["optimizer"])
        self.dynamics.load_state_dict(state["dynamics"])
        self.stages.load_state_dict(state["stages"])
        self.publish()

    def finish(self) -> Path:
        """The trained policy as a checkpoint folder; a bank is saved beside it and merged."""
        opened = self.agent.opened
        if self.bank is not None:
            self.bank.save(self.out / ADAPTER)
            opened = open_policy(self.config.agent)
            self.bank.merge_into(opened.policy)
        return save_folder(
            self.out / POLICY, opened.policy, tokenizer=opened.tokenizer, limits=opened.limits
        )
