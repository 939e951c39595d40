"""The policy that really sampled: softmax over what grammar and vocabulary allowed at each token.

A rollout draws from the allowed tokens alone, so a loss over the whole vocabulary would train
another policy. `choices_of` replays the grammar over finished trajectories and finds each token's
mask; `constrain` widens hidden states and head by one column per distinct mask, whose product is 0
for allowed tokens and far below every logit for the others. Every kernel on hidden states and a
head then computes log-probabilities, entropy and KL of the constrained policy, in one pass as
before.

Shapes: N = tokens, D = hidden, V = vocabulary, K = distinct masks, E = D + K, padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelis_fast.grammar import GrammarState, ToolGrammar
from pixelis_fast.types import TokenRole, Trajectory

GIVEN = frozenset({TokenRole.PROMPT, TokenRole.OBSERVATION})
FREE = -1
"""The mask of a token that nobody sampled: none."""
FORBIDDEN = -16384.0
"""Logit of a token that may not come: e to its power is 0, and bfloat16 holds it exactly."""
WIDTHS = 64
"""E is a multiple of it: a GPU compiles its kernels for few widths."""


@dataclass(frozen=True)
class Choices:
    """What could have been sampled, token by token.

    Example:
        choices = choices_of(trajectories, grammar, banned_ids)
        rows_N = batch.rows(choices.masks)
    """

    masks: tuple[tuple[int, ...], ...]
    """Per trajectory and token, a row of `allowed_KV`; FREE where nothing was sampled."""
    allowed_KV: Tensor
    """bool."""

    def rows(self, like: Tensor) -> Tensor:
        """(N) mask of the token that each row of a packed batch predicts, on `like`'s device."""
        moved = [torch.tensor([*masks[1:], FREE]) for masks in self.masks]
        return torch.cat(moved).to(like.device)


def choices_of(
    trajectories: Sequence[Trajectory], grammar: ToolGrammar, banned_ids: Tensor
) -> Choices:
    """Replays `grammar` over every turn; ValueError for a trajectory that did not follow it."""
    table: dict[bytes, int] = {}
    found: list[Tensor] = []
    masks = tuple(
        tuple(_masks(trajectory, grammar, banned_ids, table, found)) for trajectory in trajectories
    )
    empty_KV = torch.zeros(0, grammar.vocab_size, dtype=torch.bool)
    return Choices(masks, torch.stack(found) if found else empty_KV)


def constrain(
    hidden_ND: Tensor, weight_VD: Tensor, mask_N: Tensor, allowed_KV: Tensor
) -> tuple[Tensor, Tensor]:
    """-> (N, E), (V, E); their product is the logits with FORBIDDEN added where a mask says so."""
    return wide_hidden(hidden_ND, mask_N, allowed_KV), wide_head(weight_VD, allowed_KV)


def wide_hidden(hidden_ND: Tensor, mask_N: Tensor, allowed_KV: Tensor) -> Tensor:
    """(N, E): each row beside a 1 in its mask's column."""
    columns = num_columns(hidden_ND, allowed_KV)
    chosen_NK = hidden_ND.new_zeros(len(hidden_ND), columns)
    sampled = mask_N != FREE
    chosen_NK[sampled, mask_N[sampled]] = 1.0
    return torch.cat([hidden_ND, chosen_NK], dim=1)


def wide_head(weight_VD: Tensor, allowed_KV: Tensor) -> Tensor:
    """(V, E): each token beside what every mask makes of it."""
    bias_VK = weight_VD.new_zeros(len(weight_VD), num_columns(weight_VD, allowed_KV))
    forbidden_VK = ~allowed_KV.T.to(weight_VD.device)
    bias_VK[:, : len(allowed_KV)].masked_fill_(forbidden_VK, FORBIDDEN)
    return torch.cat([weight_VD, bias_VK], dim=1)


def num_columns(rows: Tensor, allowed_KV: Tensor) -> int:
    """E - D."""
    num_masks = len(allowed_KV)
    return num_masks + -(rows.shape[1] + num_masks) % WIDTHS


def _masks(
    trajectory: Trajectory,
    grammar: ToolGrammar,
    banned_ids: Tensor,
    table: dict[bytes, int],
    found: list[Tensor],
) -> list[int]:
    """Mask index per token of one trajectory; new masks join `table` and `found`."""
    state: GrammarState | None = None
    masks, turn = list[int](), -1
    for token, role, forced in zip(
        trajectory.ids, trajectory.roles, trajectory.forced, strict=True
    ):
        if role in GIVEN:
            state = None
            masks.append(FREE)
            continue
        if state is None:
            turn += 1
            state = grammar.start(is_last=is_last_turn(turn, trajectory.call_limit))
        masks.append(FREE if forced else _index(state, banned_ids, table, found))
        state.accept([token])
    return masks


def is_last_turn(turn: int, call_limit: int | None) -> bool:
    """Whether the turn of this number, from 0, has no call left."""
    return call_limit is not None and turn >= call_limit


def _index(
    state: GrammarState, banned_ids: Tensor, table: dict[bytes, int], found: list[Tensor]
) -> int:
    allowed_V = state.allowed()
    key = allowed_V.numpy().tobytes()
    if key not in table:
        open_V = allowed_V.clone()
        open_V[banned_ids] = False
        table[key] = len(found)
        found.append(open_V)
    return table[key]
