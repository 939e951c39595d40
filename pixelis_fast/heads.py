"""Auxiliary heads of supervised training: where a call points, read off one hidden state.

They stand on the hidden state that precedes a call's arguments: which operation, which visual token
(pointer), which box or point (regression), which span of time. From scratch, the token loss alone
leaves localisation at chance for long; METHOD.md has the figures. `DenseHead` names what each
visual token shows, where that is known. Training only: nothing of it is in a checkpoint's policy.

Shapes: R = calls, N = rows of the batch, C = most visual tokens a call can point at, D = hidden,
M = visual tokens, L = labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, smooth_l1_loss

from pixelis_fast.data.prepared import BOX, SEEN, THINGS, TokenLabels
from pixelis_fast.head_targets import OPERATIONS, HeadTargets

SMOOTH = 0.05
"""Where smooth L1 turns linear, as a share of the picture or of a cell."""
BOX_WEIGHT = 3.0


@dataclass(frozen=True)
class HeadLosses:
    """Means over the calls that have such a target; None where none has."""

    operation: Tensor
    pointer: Tensor | None
    region: Tensor | None
    span: Tensor | None
    pointed_right: float | None
    """Share of pointers on the target's cell."""

    def parts(self) -> dict[str, Tensor]:
        """Those that are there, by name."""
        named = {
            "operation": self.operation,
            "pointer": self.pointer,
            "region": self.region,
            "span": self.span,
        }
        return {name: loss for name, loss in named.items() if loss is not None}

    def total(self) -> Tensor:
        return torch.stack(list(self.parts().values())).sum()


class AuxiliaryHeads(nn.Module):
    """Example:
    losses = AuxiliaryHeads(192)(hidden_ND, targets)
    (imitation + aux_weight * losses.total()).backward()
    """

    def __init__(self, hidden_size: int, pointer_size: int = 64) -> None:
        super().__init__()
        self.operation = nn.Linear(hidden_size, len(OPERATIONS))
        self.query = nn.Linear(hidden_size, pointer_size)
        self.key = nn.Linear(hidden_size, pointer_size)
        self.region = nn.Linear(hidden_size, 4)
        self.span = nn.Linear(hidden_size, 2)

    def forward(self, hidden_ND: Tensor, targets: HeadTargets) -> HeadLosses:
        hidden_RD = hidden_ND[targets.rows_R].float()
        pointer, right = self._pointer(hidden_ND, hidden_RD, targets)
        return HeadLosses(
            operation=cross_entropy(self.operation(hidden_RD), targets.operations_R),
            pointer=pointer,
            region=region_loss(self.region(hidden_RD).sigmoid(), targets),
            span=span_loss(self.span(hidden_RD).sigmoid(), targets),
            pointed_right=right,
        )

    def _pointer(
        self, hidden_ND: Tensor, hidden_RD: Tensor, targets: HeadTargets
    ) -> tuple[Tensor | None, float | None]:
        """Scaled dot product with the visual tokens' own hidden states."""
        points_R = targets.cell_R >= 0
        if not points_R.any():
            return None, None
        cells_RC = targets.cells_RC[points_R]
        keys_RCF = self.key(hidden_ND[cells_RC.clamp(min=0)].float())
        query_RF = self.query(hidden_RD[points_R])
        scores_RC = (keys_RCF * query_RF[:, None]).sum(-1) * query_RF.shape[-1] ** -0.5
        scores_RC = scores_RC.masked_fill(cells_RC < 0, -torch.inf)
        wanted_R = targets.cell_R[points_R]
        right = (scores_RC.argmax(-1) == wanted_R).float().mean()
        return cross_entropy(scores_RC, wanted_R), float(right)


@dataclass(frozen=True)
class DenseLosses:
    """Means over the visual tokens that have labels; 0 where none has."""

    kinds: Tensor
    box: Tensor

    def total(self) -> Tensor:
        return self.kinds + BOX_WEIGHT * self.box


class DenseHead(nn.Module):
    """Names what each visual token shows, and where that is: one linear layer per kind of label.

    T = things a token may show: the large one, the small one.

    Example:
        loss = DenseHead(192, (7, 6))(features.embeds_MD, labels)
    """

    def __init__(self, hidden_size: int, num_labels: Sequence[int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(hidden_size, count) for count in num_labels)
        self.box = nn.Linear(hidden_size, THINGS * BOX)

    def forward(self, embeds_MD: Tensor, labels: TokenLabels) -> DenseLosses:
        labelled_M = (labels.kinds_ML >= 0).any(dim=1)
        if not labelled_M.any():
            return DenseLosses(embeds_MD.sum() * 0, embeds_MD.sum() * 0)
        found_MD = embeds_MD[labelled_M].float()
        pairs = zip(self.heads, labels.kinds_ML[labelled_M].unbind(1), strict=True)
        losses = [named_loss(head(found_MD), kinds_M) for head, kinds_M in pairs]
        # Two means: in one, each of the seven that few tokens have would weigh a tenth.
        means = [torch.stack(part).mean() for part in (losses[:SEEN], losses[SEEN:]) if part]
        return DenseLosses(
            kinds=torch.stack(means).sum(),
            box=things_distance(self.box(embeds_MD.float()), labels.boxes_MT4, labels.cells_M4),
        )


def named_loss(logits_MC: Tensor, kinds_M: Tensor) -> Tensor:
    """Cross entropy over those that have a label; 0 where none has."""
    known_M = kinds_M >= 0
    if not known_M.any():
        return logits_MC.sum() * 0
    return cross_entropy(logits_MC[known_M], kinds_M[known_M])


def things_distance(found_M8: Tensor, boxes_MT4: Tensor, cells_M4: Tensor) -> Tensor:
    """Of all things that are there, each told in cells."""
    known_MT = boxes_MT4[..., 0] >= 0
    cells_MT4 = cells_M4[:, None].expand_as(boxes_MT4)
    wanted_K4 = in_cells(boxes_MT4[known_MT], cells_MT4[known_MT])
    return box_distance(found_M8.view_as(boxes_MT4)[known_MT], wanted_K4)


def in_cells(boxes_M4: Tensor, cells_M4: Tensor) -> Tensor:
    """Centre from the cell's own, and size, both in cells: numbers around 1.

    As shares of the picture they are small, a loss hardly tells places within a cell apart, and a
    tower settles for naming the cell.
    """
    apart_M2 = boxes_M4[:, :2] - cells_M4[:, :2]
    return torch.cat((apart_M2, boxes_M4[:, 2:]), dim=1) / cells_M4[:, 2:].repeat(1, 2)


def box_distance(found_M4: Tensor, wanted_M4: Tensor) -> Tensor:
    """Smooth L1; 0 without rows."""
    if not len(found_M4):
        return found_M4.sum() * 0
    return smooth_l1_loss(found_M4, wanted_M4, beta=SMOOTH)


def region_loss(found_R4: Tensor, targets: HeadTargets) -> Tensor | None:
    """Smooth L1 on (centre x, centre y, width, height), and 1 - GIoU where there is a box."""
    known_R4 = targets.region_known_R4
    if not known_R4.any():
        return None
    apart_R4 = smooth_l1_loss(found_R4, targets.region_R4, beta=SMOOTH, reduction="none")
    loss = apart_R4[known_R4].mean()
    boxes_R = known_R4.all(dim=1)
    if boxes_R.any():
        loss = loss + (1 - box_giou(found_R4[boxes_R], targets.region_R4[boxes_R])).mean()
    return loss


def box_giou(a_R4: Tensor, b_R4: Tensor) -> Tensor:
    """(R) generalised IoU of boxes given as centre and size (arXiv 1902.09630)."""
    a_low, a_high = a_R4[:, :2] - a_R4[:, 2:] / 2, a_R4[:, :2] + a_R4[:, 2:] / 2
    b_low, b_high = b_R4[:, :2] - b_R4[:, 2:] / 2, b_R4[:, :2] + b_R4[:, 2:] / 2
    shared = (torch.minimum(a_high, b_high) - torch.maximum(a_low, b_low)).clamp(min=0).prod(1)
    hull = (torch.maximum(a_high, b_high) - torch.minimum(a_low, b_low)).prod(1).clamp(min=1e-9)
    union = (a_R4[:, 2:].prod(1) + b_R4[:, 2:].prod(1) - shared).clamp(min=1e-9)
    return shared / union - (hull - union) / hull


def span_loss(found_R2: Tensor, targets: HeadTargets) -> Tensor | None:
    """L1 + 1 - tIoU of (start, end) as shares of the duration."""
    known_R = targets.span_known_R
    if not known_R.any():
        return None
    found, wanted = found_R2[known_R].sort(dim=1).values, targets.span_R2[known_R]
    shared = torch.minimum(found[:, 1], wanted[:, 1]) - torch.maximum(found[:, 0], wanted[:, 0])
    hull = torch.maximum(found[:, 1], wanted[:, 1]) - torch.minimum(found[:, 0], wanted[:, 0])
    tiou = shared.clamp(min=0) / hull.clamp(min=1e-6)
    return (found - wanted).abs().mean() + (1 - tiou).mean()
