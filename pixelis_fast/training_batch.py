"""Trajectories -> one packed batch for the policy's own forward: no padding, no re-tokenising.

A row of the batch predicts the token behind it, so numbers per token (weights, advantages,
log-probs) move up by one: `rows` does that, in one place. A picture that several trajectories show
is encoded once. Knows no loss.

Shapes: N = tokens of all trajectories, P = patches, K = values of a patch, M = vision tokens,
D = hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from pixelis_fast.pieces import SharedRows, shared_rows, tree_attend
from pixelis_fast.policy.batch import PackedBatch, VisionFeatures
from pixelis_fast.policy.decoder import Apply, Attend, Context, apply_at_once
from pixelis_fast.policy.image import Patches
from pixelis_fast.policy.model import Policy
from pixelis_fast.policy.positions import Grid, mrope_positions, text_and_grids
from pixelis_fast.types import Trajectory, VisionSpan

IGNORE = -100
LoadPatches = Callable[[str], Patches]
"""Media id -> its patches (`Views.patches`)."""


@dataclass(frozen=True)
class TrainingBatch:
    """What one forward and its losses take.

    Example:
        batch = training_batch(policy, trajectories, agent.views.patches)
        hidden_ND = batch.hidden(policy)
        weights_N = batch.rows([token_weights(t.roles) for t in trajectories])
    """

    packed: PackedBatch
    """Without vision features: those come from the weights of the moment."""
    targets_N: Tensor
    """The token behind each row; IGNORE in a trajectory's last row."""
    patches_PK: Tensor | None
    grids: tuple[Grid, ...]
    """One per picture or video, each once."""
    media_ids: tuple[str, ...]
    """Which, in the same order."""
    feature_index_M: Tensor | None
    """Which feature stands at `visual_index_M`."""
    visual_index_M: Tensor | None
    shared: SharedRows | None = None
    """Which rows the decoder computes, where beginnings are shared; hidden states are all N."""

    @property
    def lengths(self) -> list[int]:
        return self.packed.lengths

    def rows(self, values: Sequence[Sequence[float]]) -> Tensor:
        """One number per token -> (N) fp32: that of the token each row predicts, 0 in last rows."""
        found = [len(each) for each in values]
        if found != self.lengths:
            raise ValueError(f"values: expected one per token {self.lengths}, got {found}")
        moved = [torch.tensor([*each[1:], 0.0], dtype=torch.float32) for each in values]
        return torch.cat(moved).to(self.targets_N.device)

    def hidden(self, policy: Policy, *, apply: Apply = apply_at_once) -> Tensor:
        """(N, D) behind the final norm, with gradients where they are enabled."""
        return self.hidden_behind(policy, self.encode(policy), apply=apply)

    def encode(self, policy: Policy) -> VisionFeatures | None:
        """Tokens of every picture once, in the order of `grids`; None without pictures."""
        if self.patches_PK is None:
            return None
        return policy.encode_vision(self.patches_PK, self.grids)

    def hidden_behind(
        self,
        policy: Policy,
        features: VisionFeatures | None,
        *,
        apply: Apply = apply_at_once,
        watch: Callable[[Attend], Attend] | None = None,
    ) -> Tensor:
        """`hidden` for one that needs the pictures' tokens, or the layers' attention, itself.

        With `shared`, `watch` sees the rows that are computed.
        """
        packed = self.packed
        if features is not None:
            shown = pick(features, self.feature_index_M)
            packed = replace(packed, visual_index_M=self.visual_index_M, visual=shown)
        if self.shared is None:
            return policy.hidden(packed, apply=apply, watch=watch)
        attend = tree_attend(self.shared.pieces, like=policy.embed_tokens.weight)
        packed = without_repeats(packed, self.shared)
        rotation = policy.rotation(packed.positions_3N)
        context = Context(rotation, attend if watch is None else watch(attend), apply)
        return policy.run_layers(packed, context).index_select(0, self.shared.places_N)


def training_batch(
    policy: Policy,
    trajectories: Sequence[Trajectory],
    load_patches: LoadPatches,
    *,
    share: bool = False,
) -> TrainingBatch:
    """The trajectories end to end on the policy's device; ValueError for an empty one.

    With `share`, a beginning that several have goes through the decoder once: single calls on one
    picture then cost little more than the calls. Bits may differ from those without.
    """
    device, merge = policy.device, policy.config.vision.merge_size
    lengths = [len(trajectory.ids) for trajectory in trajectories]
    positions = [positions_of(trajectory, merge) for trajectory in trajectories]
    packed = PackedBatch(
        input_ids_N=torch.tensor([i for t in trajectories for i in t.ids], device=device),
        positions_3N=torch.cat(positions, dim=1).to(device),
        lengths=lengths,
    )
    targets = [token for t in trajectories for token in [*t.ids[1:], IGNORE]]
    vision = gather_vision(trajectories, load_patches, merge)
    shared = shared_rows(trajectories) if share else None
    return TrainingBatch(
        packed=packed,
        targets_N=torch.tensor(targets, device=device),
        patches_PK=None if vision is None else vision.patches_PK.to(device),
        grids=() if vision is None else tuple(vision.grids.values()),
        media_ids=() if vision is None else tuple(vision.grids),
        feature_index_M=None if vision is None else vision.feature_index_M.to(device),
        visual_index_M=None if vision is None else vision.visual_index_M.to(device),
        shared=None if shared is None else shared.to(device),
    )


def without_repeats(packed: PackedBatch, shared: SharedRows) -> PackedBatch:
    """The rows of the pieces, and the features that stand in them."""
    lengths = [piece.length for piece in shared.pieces]
    ids_T = packed.input_ids_N[shared.kept_T]
    positions_3T = packed.positions_3N[:, shared.kept_T]
    if packed.visual is None or packed.visual_index_M is None:
        return PackedBatch(ids_T, positions_3T, lengths)
    is_visual_N = torch.zeros_like(packed.input_ids_N, dtype=torch.bool)
    is_visual_N[packed.visual_index_M] = True
    [visual_index_M] = is_visual_N[shared.kept_T].nonzero(as_tuple=True)
    feature_N = torch.zeros_like(packed.input_ids_N)
    feature_N[packed.visual_index_M] = torch.arange(len(packed.visual_index_M), device=ids_T.device)
    shown = pick(packed.visual, feature_N[shared.kept_T][visual_index_M])
    return PackedBatch(ids_T, positions_3T, lengths, visual_index_M, shown)


def positions_of(trajectory: Trajectory, merge: int) -> Tensor:
    """(3, n) mRoPE positions of one trajectory."""
    spans = ((span.start, span.start + span.num_tokens, span.grid_thw) for span in trajectory.spans)
    pieces = text_and_grids(spans, len(trajectory.ids), merge=merge)
    return mrope_positions(pieces, 0)[0]


@dataclass(frozen=True)
class GatheredVision:
    """Every media once, and which of its features stands where."""

    grids: dict[str, Grid]
    patches_PK: Tensor
    feature_index_M: Tensor
    visual_index_M: Tensor


def gather_vision(
    trajectories: Sequence[Trajectory], load_patches: LoadPatches, merge: int
) -> GatheredVision | None:
    spans = [(start, span) for start, t in with_starts(trajectories) for span in t.spans]
    if not spans:
        return None
    grids = {span.media_id: span.grid_thw for _, span in spans}
    tokens = [t * (h // merge) * (w // merge) for t, h, w in grids.values()]
    first = dict(zip(grids, accumulate(tokens, initial=0), strict=False))
    return GatheredVision(
        grids=grids,
        patches_PK=torch.cat([load_patches(media_id).patches_PK for media_id in grids]),
        feature_index_M=torch.cat([feature_rows(first[s.media_id], s) for _, s in spans]),
        visual_index_M=torch.cat([span_rows(start, span) for start, span in spans]),
    )


def with_starts(trajectories: Sequence[Trajectory]) -> list[tuple[int, Trajectory]]:
    """Each trajectory with the row it begins at."""
    starts = accumulate((len(t.ids) for t in trajectories), initial=0)
    return list(zip(starts, trajectories, strict=False))


def feature_rows(first: int, span: VisionSpan) -> Tensor:
    return torch.arange(span.num_tokens) + first + span.frame * span.num_tokens


def span_rows(start: int, span: VisionSpan) -> Tensor:
    """Rows of a span in a trajectory that begins at row `start`."""
    return torch.arange(span.num_tokens) + start + span.start


def pick(features: VisionFeatures, index_M: Tensor | None) -> VisionFeatures:
    assert index_M is not None
    layers = tuple(layer_MD.index_select(0, index_M) for layer_MD in features.deepstack)
    return VisionFeatures(features.embeds_MD.index_select(0, index_M), layers)
