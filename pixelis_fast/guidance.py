"""Guided attention: in two middle layers, heads look where a call points and what an answer copies.

A pointer that is read off the last layer teaches a decoder which visual token matches a name, but
not to fetch where that token lies: from scratch, pointers come right while coordinates stay at
chance, because the stream drowns the visual tokens' embeddings before the layer that would copy
them. `pixelis train sft --guide 0` trains without; compare pointed_right and nll/argument.

At every row that predicts an argument, the first head's attention is trained on the target's visual
token (cross entropy over all it may see), and a linear layer reads the call's region off what it
brings; another reads boxes off the values of the tokens that show something. The last head's is
trained on the token that an answer or a time copies (copies.py). Where a crop shows the answer, the
first head is trained on the token that shows it, whose value must tell its contents (answers.py).
Training only.

Shapes: N = rows of the batch, F = head_dim, R = calls, G = rows that predict an argument or a
copied token, C = those of a copied token, A = answers, B = visual tokens that show a thing, T =
things that one of them may show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, smooth_l1_loss

from pixelis_fast.answers import AnswerRows
from pixelis_fast.copies import CopiedRows
from pixelis_fast.data.prepared import BOX, THINGS, UNKNOWN
from pixelis_fast.head_targets import HeadTargets
from pixelis_fast.heads import BOX_WEIGHT, SMOOTH, box_distance, in_cells
from pixelis_fast.policy.decoder import Attend, Layer
from pixelis_fast.policy.model import Policy

Say = Callable[[int, Tensor], Tensor]
"""(layer, what one of its heads mixed (G, F)) -> logits (G, V)."""


@dataclass(frozen=True)
class SeenByHead:
    """What one head of one layer worked with, all (N, F)."""

    queries_NF: Tensor
    keys_NF: Tensor
    values_NF: Tensor
    mixed_NF: Tensor


class WatchedAttention:
    """Wraps a forward's attention and keeps what the first and last heads of some layers saw.

    Example:
        watched = WatchedAttention((2, 3))
        hidden_ND = batch.hidden_behind(policy, features, watch=watched.wrap)
        watched.first[2].mixed_NF
    """

    def __init__(self, layers: tuple[int, ...], places_N: Tensor | None = None) -> None:
        """`places_N`: where each row is among those computed, if some are computed for several."""
        self.layers, self.places_N = layers, places_N
        self.first: dict[int, SeenByHead] = {}
        self.last: dict[int, SeenByHead] = {}

    def wrap(self, attend: Attend) -> Attend:
        def watched(index: int, q_NHF: Tensor, k_NKF: Tensor, v_NKF: Tensor) -> Tensor:
            mixed_NHF = attend(index, q_NHF, k_NKF, v_NKF)
            if index in self.layers:
                parts = q_NHF, k_NKF, v_NKF, mixed_NHF
                self.first[index] = SeenByHead(*(self._all_rows(part[:, 0]) for part in parts))
                self.last[index] = SeenByHead(*(self._all_rows(part[:, -1]) for part in parts))
            return mixed_NHF

        return watched

    def _all_rows(self, part: Tensor) -> Tensor:
        part = part.float()
        return part if self.places_N is None else part.index_select(0, self.places_N)


@dataclass(frozen=True)
class GuidanceLosses:
    """Means over layers."""

    attention: Tensor
    region: Tensor
    on_target: float
    """Share of rows whose strongest weight is the target's."""

    def total(self) -> Tensor:
        return self.attention + BOX_WEIGHT * self.region


@dataclass(frozen=True)
class CopyLosses:
    """Means over layers."""

    attention: Tensor
    naming: Tensor
    """Cross entropy of the token itself, said by the head alone: of what it brought, and of what
    the tools' tokens offer."""
    on_target: float

    def total(self) -> Tensor:
        return self.attention + self.naming


@dataclass(frozen=True)
class AnswerLosses:
    """Means over layers."""

    attention: Tensor
    contents: Tensor
    """Cross entropy of what the token shows, read off its value and off what the head brought."""
    naming: Tensor
    """Cross entropy of the answer's first token, said by the head alone."""
    on_target: float

    def total(self) -> Tensor:
        return self.attention + self.contents + self.naming


class Guidance(nn.Module):
    """Example:
    guidance = Guidance(head_dim=48, num_layers=5, num_contents=(7, 9))
    losses = guidance(watched.first, targets)
    copies = guidance.copies(watched.last, copied, ids_N, say)
    answers = guidance.answers(watched.first, shown)
    """

    def __init__(self, *, head_dim: int, num_layers: int, num_contents: Sequence[int] = ()) -> None:
        super().__init__()
        middle = num_layers // 2
        self.layers = tuple(sorted({middle, min(middle + 1, num_layers - 1)}))
        self.brought = nn.ModuleList(nn.Linear(head_dim, 2 * BOX) for _ in self.layers)
        self.offered = nn.ModuleList(nn.Linear(head_dim, THINGS * 2 * BOX) for _ in self.layers)
        self.num_contents = tuple(num_contents)
        self.contents = nn.ModuleList(
            nn.Linear(head_dim, sum(num_contents)) for _ in self.layers if num_contents
        )

    def forward(
        self,
        seen: dict[int, SeenByHead],
        targets: HeadTargets,
        *,
        shown: ShownBoxes | None = None,
    ) -> GuidanceLosses | None:
        """None where no call of the batch points at a picture."""
        rows = guided_rows(targets)
        if rows is None:
            return None
        found = [attention_loss(seen[layer], rows) for layer in self.layers]
        regions = [
            brought_loss(read, seen[layer], rows)
            for layer, read in zip(self.layers, self.brought, strict=True)
        ]
        if shown is not None:
            regions += [
                offered_loss(read, seen[layer], shown)
                for layer, read in zip(self.layers, self.offered, strict=True)
            ]
        return GuidanceLosses(
            attention=torch.stack([loss for loss, _ in found]).mean(),
            region=torch.stack(regions).sum() / len(self.layers),
            on_target=sum(right for _, right in found) / len(found),
        )

    def copies(
        self, seen: dict[int, SeenByHead], rows: CopiedRows, ids_N: Tensor, say: Say
    ) -> CopyLosses:
        """Every copied token counts once in each layer."""
        found = [attention_loss(seen[layer], rows) for layer in self.layers]
        named = [
            naming_loss(seen[layer], rows, ids_N, partial(say, layer)) for layer in self.layers
        ]
        return CopyLosses(
            attention=torch.stack([loss for loss, _ in found]).mean(),
            naming=torch.stack(named).mean(),
            on_target=sum(right for _, right in found) / len(found),
        )

    def answers(
        self, seen: dict[int, SeenByHead], rows: AnswerRows, ids_N: Tensor, say: Say
    ) -> AnswerLosses:
        """Every token of such an answer counts once in each layer."""
        found = [attention_loss(seen[layer], rows) for layer in self.layers]
        told = [
            self._contents_loss(read, seen[layer], rows)
            for layer, read in zip(self.layers, self.contents, strict=True)
        ]
        rows_A = rows.rows_G[rows.first_G]
        said = [say(layer, seen[layer].mixed_NF[rows_A]) for layer in self.layers]
        named = [cross_entropy(logits_AV, ids_N[rows_A + 1]) for logits_AV in said]
        return AnswerLosses(
            attention=torch.stack([loss for loss, _ in found]).mean(),
            contents=torch.stack(told).mean(),
            naming=torch.stack(named).mean(),
            on_target=sum(right for _, right in found) / len(found),
        )

    def _contents_loss(self, read: nn.Module, seen: SeenByHead, rows: AnswerRows) -> Tensor:
        both = torch.stack((seen.values_NF[rows.wanted_G], seen.mixed_NF[rows.rows_G]))
        parts = read(both).split(self.num_contents, dim=-1)
        kinds = rows.contents_GC.unbind(1)
        losses = [
            cross_entropy(part.flatten(0, 1), wanted_G.repeat(2), ignore_index=UNKNOWN)
            for part, wanted_G in zip(parts, kinds, strict=True)
            if (wanted_G != UNKNOWN).any()
        ]
        return torch.stack(losses).mean()


@dataclass(frozen=True)
class ShownBoxes:
    """Rows of visual tokens that show a thing, the things' boxes and the token's own."""

    rows_B: Tensor
    boxes_BT4: Tensor
    """Below 0 where there is none."""
    cells_B4: Tensor


def brought_loss(read: nn.Module, seen: SeenByHead, rows: GuidedRows) -> Tensor:
    """Smooth L1 of the call's region, read off what the head brought."""
    wanted_G8 = both_units(rows.region_G4, rows.cell_box_G4)
    known_G8 = rows.region_known_G4.repeat(1, 2)
    apart_G8 = smooth_l1_loss(
        read(seen.mixed_NF[rows.rows_G]), wanted_G8, beta=SMOOTH, reduction="none"
    )
    return apart_G8[known_G8].mean()


def offered_loss(read: nn.Module, seen: SeenByHead, shown: ShownBoxes) -> Tensor:
    """Smooth L1 of things' boxes, read off the values of the tokens that show them."""
    known_BT = shown.boxes_BT4[..., 0] >= 0
    cells_BT4 = shown.cells_B4[:, None].expand_as(shown.boxes_BT4)
    wanted_K8 = both_units(shown.boxes_BT4[known_BT], cells_BT4[known_BT])
    found_BT8 = read(seen.values_NF[shown.rows_B]).view(*known_BT.shape, 2 * BOX)
    return box_distance(found_BT8[known_BT], wanted_K8)


def naming_loss(
    seen: SeenByHead, rows: CopiedRows, ids_N: Tensor, say: Callable[[Tensor], Tensor]
) -> Tensor:
    """Where a head looks is not enough: its values must still know the tokens, through a stream
    much louder than the embeddings, and what it writes must say them."""
    rows_C = rows.rows_G[rows.copies_G]
    # What comes next, not what stands there: a word's mark before it may be another (copies.py).
    brought = cross_entropy(say(seen.mixed_NF[rows_C]), ids_N[rows_C + 1])
    offered = cross_entropy(say(seen.values_NF[rows.said_S]), ids_N[rows.said_S])
    return (brought + offered) / 2


def said_alone(policy: Policy, head: int, layer: int, brought_GF: Tensor) -> Tensor:
    """(G, V) logits of what one head alone (-1: the last) writes into the stream."""
    wide = policy.layers[layer]
    assert isinstance(wide, Layer)
    out_DHF = wide.attention.out.weight.unflatten(1, (-1, brought_GF.shape[-1]))
    out_DF = out_DHF[:, head].float()
    written_GD = brought_GF @ out_DF.T
    normed_GD = policy.norm(written_GD.to(policy.norm.weight.dtype))
    return normed_GD.float() @ policy.head_weight.float().T


def both_units(boxes_B4: Tensor, cells_B4: Tensor) -> Tensor:
    """(B, 8): in cells, from the cell; and as shares of the picture, which tells the cell."""
    return torch.cat((in_cells(boxes_B4, cells_B4), boxes_B4), dim=1)


@dataclass(frozen=True)
class GuidedRows:
    """Every row that predicts an argument of a call that points at a picture."""

    rows_G: Tensor
    starts_G: Tensor
    """First row each may see."""
    wanted_G: Tensor
    """Row of the target's visual token."""
    cell_box_G4: Tensor
    region_G4: Tensor
    region_known_G4: Tensor


def guided_rows(targets: HeadTargets) -> GuidedRows | None:
    pointing_R = targets.cell_R >= 0
    if not pointing_R.any():
        return None
    first_R, ends_R = targets.rows_R[pointing_R], targets.ends_R[pointing_R]
    counts_R = ends_R - first_R
    call_G = torch.arange(len(counts_R), device=counts_R.device).repeat_interleave(counts_R)
    before_R = counts_R.cumsum(0) - counts_R
    within_G = torch.arange(len(call_G), device=counts_R.device) - before_R[call_G]
    cells_RC = targets.cells_RC[pointing_R]
    wanted_R = cells_RC.gather(1, targets.cell_R[pointing_R][:, None])[:, 0]
    return GuidedRows(
        rows_G=first_R[call_G] + within_G,
        starts_G=targets.starts_R[pointing_R][call_G],
        wanted_G=wanted_R[call_G],
        cell_box_G4=targets.cell_box_R4[pointing_R][call_G],
        region_G4=targets.region_R4[pointing_R][call_G],
        region_known_G4=targets.region_known_R4[pointing_R][call_G],
    )


def attention_loss(
    seen: SeenByHead, rows: GuidedRows | CopiedRows | AnswerRows
) -> tuple[Tensor, float]:
    """Cross entropy of a head's causal attention on the wanted rows; share that is strongest."""
    queries_GF = seen.queries_NF[rows.rows_G] * seen.queries_NF.shape[-1] ** -0.5
    place_N = torch.arange(len(seen.keys_NF), device=rows.rows_G.device)
    hidden_GN = (place_N < rows.starts_G[:, None]) | (place_N > rows.rows_G[:, None])
    # One product with every key: keys gathered per row cost twice the time, and G copies of them.
    scores_GN = (queries_GF @ seen.keys_NF.T).masked_fill(hidden_GN, -torch.inf)
    right = (scores_GN.argmax(-1) == rows.wanted_G).float().mean()
    return cross_entropy(scores_GN, rows.wanted_G), float(right)
