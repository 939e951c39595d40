"""One mini-batch's loss and gradient: clipped policy gradient + KL to the SFT policy + imitation.

One pass over the vocabulary per forward, on the policy that the grammar constrains
(constrained.py), with shared prompts computed once (tree_batch.py). A mini-batch that is too large
for one forward is summed up over several: the normalisers are the whole mini-batch's.

Shapes: N = rows of one forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from pixelis_fast.advantages import learned_tokens, token_advantages
from pixelis_fast.constrained import Choices, choices_of, constrain, wide_head, wide_hidden
from pixelis_fast.grammar import ToolGrammar
from pixelis_fast.kernels.linear_loss import ReferenceHead
from pixelis_fast.kernels.policy_loss import PolicyLoss, linear_policy_loss
from pixelis_fast.policy.adapters import AdapterBank
from pixelis_fast.policy.decoder import apply_at_once
from pixelis_fast.policy.model import Policy
from pixelis_fast.training_batch import LoadPatches
from pixelis_fast.tree_batch import TreeBatch, tree_batch
from pixelis_fast.types import TokenRole, Trajectory


@dataclass(frozen=True)
class LossConfig:
    """Weights of the parts; a part of weight 0 is measured and not trained."""

    clip: tuple[float, float] = (0.2, 0.28)
    """The ratio counts within [1 - low, 1 + high]."""
    kl_weight: float = 0.05
    """β of the exact KL(π‖π_SFT)."""
    entropy_weight: float = 0.0
    imitation_weight: float = 0.0
    """Of each group's best trajectory, where it solved the task."""
    forward_tokens: int = 4096
    """Most tokens behind prompts in one forward. The update of a step of 64 chains of pixelworld-5m
    took 21 and 28 s at 32768, 12 and 19 s at 8192, 12 and 16 s at 4096 (two steps, one thread of a
    busy machine); the kernel's share of both steps fell from 25 s to 3: large blocks are given back
    and their pages faulted in again."""


@dataclass(frozen=True)
class Learnable:
    """A trajectory and what the policy is to make of it."""

    trajectory: Trajectory
    advantage: float
    imitated: bool


@dataclass(frozen=True)
class LossReport:
    """Means over the mini-batch's tokens; the two last ones are for the mismatch monitor."""

    loss: float
    policy: float
    kl: float
    entropy: float
    imitation: float
    clipped_low: float
    clipped_high: float
    behaviour_kl: float
    num_tokens: int
    rollout_M: Tensor
    """Log-probabilities of the learned tokens when they were sampled."""
    trainer_M: Tensor
    """The same from the training forward."""


class LossMaker:
    """Adds up gradients.

    Example:
        report = maker.backward([Learnable(trajectory, advantage=1.2, imitated=False), …])
    """

    def __init__(
        self,
        policy: Policy,
        anchor: Policy,
        config: LossConfig,
        *,
        grammar: ToolGrammar,
        banned_ids: Tensor,
        load_patches: LoadPatches,
        temperature: float,
        bank: AdapterBank | None = None,
    ) -> None:
        """`anchor` may be the policy itself where only a bank on it learns."""
        self.policy, self.anchor, self.config = policy, anchor, config
        self._grammar, self._banned_ids = grammar, banned_ids
        self._load_patches, self._temperature = load_patches, temperature
        self._apply = apply_at_once if bank is None else bank.apply()

    def backward(self, learnables: Sequence[Learnable]) -> LossReport:
        """Leaves the mini-batch's gradient in the parameters."""
        counts = [sum(learned_tokens(each.trajectory)) for each in learnables]
        total = float(max(1, sum(counts)))
        imitated = sum(n for n, each in zip(counts, learnables, strict=True) if each.imitated)
        reports = [
            self._forward_backward(part, total, float(max(1, imitated)))
            for part in parts_of(learnables, self.config.forward_tokens)
        ]
        return summed(reports)

    def _forward_backward(
        self, part: Sequence[Learnable], total: float, imitated: float
    ) -> LossReport:
        trajectories = [each.trajectory for each in part]
        batch = tree_batch(self.policy, trajectories, self._load_patches)
        if self.anchor is self.policy:
            # Both see the same tower, which then does not learn: pictures are encoded once.
            with torch.no_grad():
                batch = batch.with_features(self.policy)
        choices = choices_of(trajectories, self._grammar, self._banned_ids)
        valid_N = batch.rows([learned_tokens(t) for t in trajectories]) > 0
        rollout_N = batch.rows([t.logprobs for t in trajectories])
        found = self._loss(batch, choices, part, valid_N, rollout_N, total, imitated)
        found.loss.backward()
        return report_of(found, valid_N, rollout_N, total)

    def _loss(
        self,
        batch: TreeBatch,
        choices: Choices,
        part: Sequence[Learnable],
        valid_N: Tensor,
        rollout_N: Tensor,
        total: float,
        imitated: float,
    ) -> PolicyLoss:
        mask_N = mask_rows(batch, choices)
        hidden_ND = batch.hidden(self.policy, apply=self._apply)
        wide_NE, wide_VE = constrain(hidden_ND, self.policy.head_weight, mask_N, choices.allowed_KV)
        config = self.config
        return linear_policy_loss(
            wide_NE,
            wide_VE,
            batch.targets_N,
            batch.rows([token_advantages(e.trajectory, e.advantage) for e in part]),
            rollout_N,
            valid_N=valid_N,
            normalizer=total,
            clip=config.clip,
            reference=self._reference(batch, choices, mask_N),
            kl_weight=config.kl_weight,
            entropy_weight=config.entropy_weight,
            imitation_weights_N=batch.rows([imitation_weights(each) for each in part]),
            imitation_weight=config.imitation_weight,
            imitation_normalizer=imitated,
            temperature=self._temperature,
        )

    @torch.no_grad()
    def _reference(self, batch: TreeBatch, choices: Choices, mask_N: Tensor) -> ReferenceHead:
        hidden_NE = wide_hidden(batch.hidden(self.anchor), mask_N, choices.allowed_KV)
        if self.anchor is self.policy:
            return ReferenceHead(hidden_NE)
        weight_VD = self.anchor.head_weight.detach()
        return ReferenceHead(hidden_NE, wide_head(weight_VD, choices.allowed_KV))


def mask_rows(batch: TreeBatch, choices: Choices) -> Tensor:
    """(N) index of the mask that the token behind each row was drawn under."""
    # `rows` fills with 0, which must mean no mask here.
    shifted = [[mask + 1.0 for mask in masks] for masks in choices.masks]
    return batch.rows(shifted).long() - 1


def imitation_weights(learnable: Learnable) -> list[float]:
    wanted = float(learnable.imitated)
    return [wanted if learned else 0.0 for learned in learned_tokens(learnable.trajectory)]


def parts_of(learnables: Sequence[Learnable], most: int) -> Iterator[list[Learnable]]:
    """In order, each with at most so many tokens behind prompts, and at least one trajectory."""
    part: list[Learnable] = []
    used = 0
    for each in learnables:
        size = sum(role is not TokenRole.PROMPT for role in each.trajectory.roles)
        if part and used + size > most:
            yield part
            part, used = [], 0
        part.append(each)
        used += size
    if part:
        yield part


def report_of(found: PolicyLoss, valid_N: Tensor, rollout_N: Tensor, total: float) -> LossReport:
    # Losses are over the whole mini-batch already; shares are over this forward's tokens.
    count = int(valid_N.sum())
    share = count / total
    return LossReport(
        loss=float(found.loss.detach()),
        policy=float(found.policy),
        kl=float(found.kl),
        entropy=float(found.entropy),
        imitation=float(found.imitation),
        clipped_low=float(found.clipped_low) * share,
        clipped_high=float(found.clipped_high) * share,
        behaviour_kl=float(found.behaviour_kl) * share,
        num_tokens=count,
        rollout_M=rollout_N[valid_N].cpu(),
        trainer_M=found.logprob_N[valid_N].cpu(),
    )


def summed(reports: Sequence[LossReport]) -> LossReport:
    columns = {f.name: [getattr(report, f.name) for report in reports] for f in fields(LossReport)}
    rows = {name: torch.cat(columns.pop(name)) for name in ("rollout_M", "trainer_M")}
    sums = {name: sum(values) for name, values in columns.items()}
    whole: dict[str, Any] = {**sums, **rows}
    return LossReport(**whole)
