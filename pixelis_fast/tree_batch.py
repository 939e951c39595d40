"""Trajectories -> one packed batch in which every shared beginning is computed once (pieces.py).

Hidden states and gradients are those of `training_batch`, which repeats every prompt
(tests/test_tree_batch.py).

Shapes: N = rows of all pieces, D = hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pixelis_fast.pieces import Piece, pieces_of, tree_attend
from pixelis_fast.policy.batch import PackedBatch
from pixelis_fast.policy.decoder import Apply, Context, apply_at_once
from pixelis_fast.policy.model import Policy
from pixelis_fast.policy.positions import Grid
from pixelis_fast.training_batch import (
    IGNORE,
    LoadPatches,
    feature_rows,
    pick,
    positions_of,
)
from pixelis_fast.types import Trajectory, VisionSpan


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

    def with_features(self, policy: Policy) -> TreeBatch:
        """Its pictures encoded now, for every forward that follows."""
        if self.patches_PK is None:
            return self
        features = policy.encode_vision(self.patches_PK, self.grids)
        shown = pick(features, self.feature_index_M)
        packed = replace(self.packed, visual_index_M=self.visual_index_M, visual=shown)
        return replace(self, packed=packed, patches_PK=None)

    def hidden(self, policy: Policy, *, apply: Apply = apply_at_once) -> Tensor:
        """(N, D) behind the final norm, with gradients where they are enabled."""
        packed = self.with_features(policy).packed
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
