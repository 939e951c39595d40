"""The learner's batch: shared prompts once, pictures encoded once, the grammar's choices beside it.

Only adapters of the decoder learn, so pictures' tokens are constants, and the policy of a bank is
hidden states under that bank with the head that the grammar constrains (constrained.py).

Shapes: N = rows, D = hidden, E = D and the grammar's columns, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelis_fast.advantages import learned_tokens
from pixelis_fast.constrained import choices_of, constrain
from pixelis_fast.grammar import ToolGrammar
from pixelis_fast.policy.adapters import AdapterBank
from pixelis_fast.policy.model import Policy
from pixelis_fast.training_batch import LoadPatches
from pixelis_fast.tree_batch import TreeBatch, tree_batch
from pixelis_fast.types import Trajectory


@dataclass(frozen=True)
class Rules:
    """What a policy may say: the grammar and the tokens that nobody samples."""

    grammar: ToolGrammar
    banned_ids: Tensor


@dataclass(frozen=True)
class LearnerBatch:
    """Some trajectories, ready for any bank.

    Example:
        batch = learner_batch(policy, trajectories, patches, rules)
        hidden_NE, weight_VE = batch.head(batch.hidden(bank))
    """

    policy: Policy
    trajectories: tuple[Trajectory, ...]
    tree: TreeBatch
    mask_N: Tensor
    allowed_KV: Tensor
    valid_N: Tensor
    """Rows that predict a token which the policy sampled."""

    def rows(self, values: Sequence[Sequence[float]]) -> Tensor:
        return self.tree.rows(values)

    def hidden(self, bank: AdapterBank) -> Tensor:
        """(N, D)"""
        return self.tree.hidden(self.policy, apply=bank.apply())

    def head(self, hidden_ND: Tensor) -> tuple[Tensor, Tensor]:
        """(N, E), (V, E) of the policy that really sampled."""
        weight_VD = self.policy.head_weight.detach()
        return constrain(hidden_ND, weight_VD, self.mask_N, self.allowed_KV)


@torch.no_grad()
def learner_batch(
    policy: Policy, trajectories: Sequence[Trajectory], load_patches: LoadPatches, rules: Rules
) -> LearnerBatch:
    tree = tree_batch(policy, trajectories, load_patches).with_features(policy)
    choices = choices_of(trajectories, rules.grammar, rules.banned_ids)
    # `rows` fills with 0, which must mean no mask here.
    masks = [[mask + 1.0 for mask in masks] for masks in choices.masks]
    learned = [[float(each) for each in learned_tokens(t)] for t in trajectories]
    return LearnerBatch(
        policy,
        tuple(trajectories),
        tree,
        mask_N=tree.rows(masks).long() - 1,
        allowed_KV=choices.allowed_KV,
        valid_N=tree.rows(learned) > 0,
    )
