"""Trajectories that begin alike as pieces of a tree: every shared beginning is there once.

The system prompt with its tools is common to all trajectories, a prompt with its picture to a
group. A piece attends to the pieces it stands behind, whole, and to itself. Only prompt tokens are
shared, because a loss may weigh the same sampled token differently.

Shapes: N = rows of all trajectories, T = rows of all pieces, H = query heads, K = key/value heads,
F = head_dim, L = tokens of a piece, S = tokens it sees.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from pixelis_fast.policy.decoder import Attend
from pixelis_fast.types import TokenRole, Trajectory

SHORTEST_SHARED = 8
"""Tokens; a shorter beginning is not worth a piece."""


@dataclass(frozen=True)
class Piece:
    """Tokens [start, stop) of a trajectory, computed once for all that begin like it."""

    trajectory: int
    start: int
    stop: int
    behind: tuple[int, ...] = ()
    """Pieces that it continues, the first one first."""

    @property
    def length(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class SharedRows:
    """The rows of trajectories end to end, without those that repeat a shared beginning."""

    pieces: tuple[Piece, ...]
    kept_T: Tensor
    """The row each row of the pieces stands for."""
    places_N: Tensor
    """Where every row is found among those of the pieces."""

    def to(self, device: torch.device) -> SharedRows:
        return SharedRows(self.pieces, self.kept_T.to(device), self.places_N.to(device))


def shared_rows(trajectories: Sequence[Trajectory]) -> SharedRows | None:
    """None where no beginning is shared."""
    pieces = tuple(pieces_of(trajectories))
    if not any(piece.behind for piece in pieces):
        return None
    starts = list(accumulate((len(t.ids) for t in trajectories), initial=0))
    kept = [torch.arange(p.start, p.stop) + starts[p.trajectory] for p in pieces]
    firsts = list(accumulate((piece.length for piece in pieces), initial=0))
    rows = [torch.arange(firsts[n], firsts[n + 1]) for n in range(len(pieces))]
    places: dict[int, Tensor] = {}
    for number, piece in enumerate(pieces):
        if piece.stop == len(trajectories[piece.trajectory].ids):
            places[piece.trajectory] = torch.cat([rows[n] for n in (*piece.behind, number)])
    found = [places[number] for number in range(len(trajectories))]
    return SharedRows(pieces, torch.cat(kept), torch.cat(found))


def pieces_of(trajectories: Sequence[Trajectory]) -> list[Piece]:
    """The tree, parents before children."""
    pieces: list[Piece] = []
    keys = [prompt_keys(trajectory) for trajectory in trajectories]

    def grow(members: list[int], start: int, behind: tuple[int, ...]) -> None:
        if len(members) == 1:
            [only] = members
            pieces.append(Piece(only, start, len(trajectories[only].ids), behind))
            return
        common = common_length([keys[m] for m in members], start)
        # The last common token stays with each branch: its row predicts where they part.
        if common - 1 - start >= SHORTEST_SHARED:
            pieces.append(Piece(members[0], start, common - 1, behind))
            start, behind = common - 1, (*behind, len(pieces) - 1)
        parted: dict[object, list[int]] = defaultdict(list)
        for member in members:
            # A prompt that ends here has nothing more to share.
            is_over = common >= len(keys[member])
            parted[("over", member) if is_over else keys[member][common]].append(member)
        for part in parted.values():
            grow(part, start, behind)

    grow(list(range(len(trajectories))), 0, ())
    return pieces


def prompt_keys(trajectory: Trajectory) -> list[object]:
    """What must be equal to share a token of the prompt: its id, and the picture it shows."""
    roles = trajectory.roles
    prompt = next((i for i, r in enumerate(roles) if r is not TokenRole.PROMPT), len(roles))
    keys: list[object] = list(trajectory.ids[:prompt])
    for span in trajectory.spans:
        if span.start < prompt:
            shown = (span.media_id, span.frame, span.grid_thw)
            keys[span.start : span.start + span.num_tokens] = [shown] * span.num_tokens
    return keys


def common_length(keys: Sequence[list[object]], start: int) -> int:
    """Tokens that all begin with, known to be equal up to `start`."""
    shortest = min(len(each) for each in keys)
    for place in range(start, shortest):
        if any(each[place] != keys[0][place] for each in keys[1:]):
            return place
    return shortest


def tree_attend(pieces: Sequence[Piece], *, like: Tensor) -> Attend:
    """Each piece attends to those it stands behind, whole, and to itself, causally."""
    lengths = [piece.length for piece in pieces]
    masks = [behind_mask(piece, lengths, like) for piece in pieces]

    def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        # In fp32 for a gradient on a CPU, as causal_attention: the bf16 backward is slow there.
        widen = queries.requires_grad and not queries.is_cuda
        qkv = [x.float() if widen else x for x in (queries, keys, values)]
        q, k, v = ([part.transpose(0, 1) for part in x.split(lengths)] for x in qkv)
        out = [
            behind_attention(q[i], *(seen(x, i, piece) for x in (k, v)), mask=masks[i])
            for i, piece in enumerate(pieces)
        ]
        return torch.cat(out).to(queries.dtype)

    return attend


def seen(parts: Sequence[Tensor], index: int, piece: Piece) -> Tensor:
    """(K, S, F) of the pieces it stands behind and its own."""
    return torch.cat([*(parts[i] for i in piece.behind), parts[index]], dim=1)


def behind_attention(q_HLF: Tensor, k_KSF: Tensor, v_KSF: Tensor, *, mask: Tensor | None) -> Tensor:
    """(L, H, F); without a mask it is plainly causal."""
    fitting = None if mask is None else mask.to(q_HLF.dtype)
    out = scaled_dot_product_attention(
        q_HLF[None], k_KSF[None], v_KSF[None], attn_mask=fitting, is_causal=mask is None,
        enable_gqa=True,
    )  # fmt: skip
    return out[0].transpose(0, 1)


def behind_mask(piece: Piece, lengths: Sequence[int], like: Tensor) -> Tensor | None:
    """(L, S): 0 where a token sees another, -inf where not; None for a piece behind nothing."""
    if not piece.behind:
        return None
    before = sum(lengths[i] for i in piece.behind)
    whole = torch.zeros(piece.length, before, device=like.device)
    own = torch.full((piece.length, piece.length), -torch.inf, device=like.device).triu(1)
    return torch.cat([whole, own], dim=1)
