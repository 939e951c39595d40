"""Trajectories -> one packed batch in which every shared beginning is computed once.

The system prompt with its tools is common to all trajectories, a prompt with its picture to a
group: here they are pieces of a tree, and a piece attends to the pieces it stands behind. Hidden
states and gradients are those of `training_batch`, which repeats every prompt
(tests/test_tree_batch.py). Only prompt tokens are shared, because a loss may weigh the same sampled
token differently.

Shapes: N = rows of all pieces, D = hidden, H = query heads, K = key/value heads, F = head_dim,
L = tokens of a piece, S = tokens it sees.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from pixelis_fast.policy.batch import PackedBatch
from pixelis_fast.policy.decoder import Apply, Attend, Context, apply_at_once
from pixelis_fast.policy.model import Policy
from pixelis_fast.policy.positions import Grid
from pixelis_fast.training_batch import (
    IGNORE,
    LoadPatches,
    feature_rows,
    pick,
    positions_of,
)
from pixelis_fast.types import TokenRole, Trajectory, VisionSpan

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
class TreeBatch:
    """`TrainingBatch` with fewer rows; the rows of shared pieces predict prompt tokens only.

    Example:
        batch = tree_batch(policy, trajectories, agent.views.patches)
        hidden_ND = batch.hidden(policy)
        weights_N = batch.rows([token_weights(t.roles) for t in trajectories])
    """

    pieces: tuple[Piece, ...]
    packed: PackedBatch
    targets_N: Tensor
    """The token behind each row; IGNORE in a trajectory's last row."""
    lengths: list[int]
    """Tokens of each trajectory."""
    patches_PK: Tensor | None
    grids: tuple[Grid, ...]
    feature_index_M: Tensor | None
    visual_index_M: Tensor | None

    def rows(self, values: Sequence[Sequence[float]]) -> Tensor:
        """One number per token of each trajectory -> (N) fp32: that of the token a row predicts."""
        found = [len(each) for each in values]
        if found != self.lengths:
            raise ValueError(f"values: expected one per token {self.lengths}, got {found}")
        moved = [
            number
            for piece in self.pieces
            for number in [*values[piece.trajectory], 0.0][piece.start + 1 : piece.stop + 1]
        ]
        return torch.tensor(moved, dtype=torch.float32, device=self.targets_N.device)

    def hidden(self, policy: Policy, *, apply: Apply = apply_at_once) -> Tensor:
        """(N, D) behind the final norm, with gradients where they are enabled."""
        packed = self.packed
        if self.patches_PK is not None:
            features = policy.encode_vision(self.patches_PK, self.grids)
            shown = pick(features, self.feature_index_M)
            packed = replace(packed, visual_index_M=self.visual_index_M, visual=shown)
        attend = tree_attend(self.pieces, like=policy.embed_tokens.weight)
        rotation = policy.rotation(packed.positions_3N)
        return policy.run_layers(packed, Context(rotation, attend, apply))


def tree_batch(
    policy: Policy, trajectories: Sequence[Trajectory], load_patches: LoadPatches
) -> TreeBatch:
    """On the policy's device; ValueError for no trajectories."""
    if not trajectories:
        raise ValueError("trajectories: expected at least one, got none")
    device, merge = policy.device, policy.config.vision.merge_size
    pieces = tuple(pieces_of(trajectories))
    positions = [positions_of(t, merge) for t in trajectories]
    followed = [[*t.ids[1:], IGNORE] for t in trajectories]
    ids = [i for p in pieces for i in trajectories[p.trajectory].ids[p.start : p.stop]]
    targets = [i for p in pieces for i in followed[p.trajectory][p.start : p.stop]]
    parts = [positions[p.trajectory][:, p.start : p.stop] for p in pieces]
    packed = PackedBatch(
        input_ids_N=torch.tensor(ids, device=device),
        positions_3N=torch.cat(parts, dim=1).to(device),
        lengths=[piece.length for piece in pieces],
    )
    lengths = [len(t.ids) for t in trajectories]
    batch = TreeBatch(pieces, packed, torch.tensor(targets, device=device), lengths,
                      None, (), None, None)  # fmt: skip
    shown = [(row, span) for row, span in spans_of(pieces, trajectories)]
    return with_pictures(batch, shown, load_patches, merge) if shown else batch


def with_pictures(
    batch: TreeBatch, shown: Sequence[tuple[int, VisionSpan]], load: LoadPatches, merge: int
) -> TreeBatch:
    """Every media once, and which of its features stands in which row."""
    device = batch.targets_N.device
    grids = {span.media_id: span.grid_thw for _, span in shown}
    first, total = {}, 0
    for media_id, (t, h, w) in grids.items():
        first[media_id] = total
        total += t * (h // merge) * (w // merge)
    features = [feature_rows(first[span.media_id], span) for _, span in shown]
    places = [torch.arange(span.num_tokens) + row for row, span in shown]
    return replace(
        batch,
        patches_PK=torch.cat([load(media_id).patches_PK for media_id in grids]).to(device),
        grids=tuple(grids.values()),
        feature_index_M=torch.cat(features).to(device),
        visual_index_M=torch.cat(places).to(device),
    )


def spans_of(
    pieces: Sequence[Piece], trajectories: Sequence[Trajectory]
) -> Iterator[tuple[int, VisionSpan]]:
    """Each shown picture with the row that it begins at."""
    row = 0
    for piece in pieces:
        for span in trajectories[piece.trajectory].spans:
            if piece.start <= span.start < piece.stop:
                yield row + span.start - piece.start, span
        row += piece.length


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
