"""What a gate measures between two outputs: mask, embedding, score and text metrics.

Each metric takes (reference, candidate) pairs, one per probe, and gives one number; a floor wants
it high, a ceiling low.

Shapes: B = items, h, w = mask, N = planes, T = columns, V = classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

Pairs = Sequence[tuple[Tensor, Tensor]]
BLANK = 0
"""CTC's class for no character."""


@dataclass(frozen=True)
class Metric:
    measure: Callable[[Pairs, float], float]
    """(pairs, threshold) -> value; only mask metrics read the threshold."""
    is_floor: bool


class ProbeError(ValueError):
    """The probes cannot tell a good candidate from a bad one."""


def finite(pairs: Pairs, threshold: float) -> float:
    """1 when every value of the candidates is finite, else 0."""
    return float(all(bool(candidate.isfinite().all()) for _, candidate in pairs))


def cosine(pairs: Pairs, threshold: float) -> float:
    """The least cosine of an item's flattened values."""
    values = [functional.cosine_similarity(*_items(pair), dim=1).min() for pair in pairs]
    return float(torch.stack(values).min())


def max_abs(pairs: Pairs, threshold: float) -> float:
    """The largest difference of any value."""
    return max(float((candidate - reference).abs().max()) for reference, candidate in pairs)


def relative_rms(pairs: Pairs, threshold: float) -> float:
    """Root mean square of the difference over the reference's standard deviation, worst probe."""
    return max(float((c - r).pow(2).mean().sqrt() / r.std().clamp_min(1e-12)) for r, c in pairs)


def mask_iou_mean(pairs: Pairs, threshold: float) -> float:
    return float(_ious(pairs, threshold).mean())


def mask_iou_p01(pairs: Pairs, threshold: float) -> float:
    """The first percentile over planes."""
    return float(_ious(pairs, threshold).quantile(0.01))


def box_px(pairs: Pairs, threshold: float) -> float:
    """How far an edge of a mask's bounding box moves: the 99th percentile over planes.

    In steps of the masks as given; a check's `scale` enlarges them to the input's pixels first.
    """
    moves = [
        (mask_boxes(candidate) - mask_boxes(reference)).abs().amax(1).float()
        for reference, candidate in _masks(pairs, threshold)
    ]
    return float(torch.cat(moves).quantile(0.99))


def ctc_argmax(pairs: Pairs, threshold: float) -> float:
    """Share of columns whose best class is the same."""
    same = [(r.argmax(-1) == c.argmax(-1)).float().flatten() for r, c in pairs]
    return float(torch.cat(same).mean())


def cer_change(pairs: Pairs, threshold: float) -> float:
    """Edit distance between both greedy readings, per character of the reference's."""
    readings = [
        (ctc_ids(r), ctc_ids(c))
        for reference, other in pairs
        for r, c in zip(reference, other, strict=True)
    ]
    length = sum(len(reference) for reference, _ in readings)
    if length == 0:
        raise ProbeError("text probes: expected at least one character read, got none")
    return sum(edit_distance(reference, other) for reference, other in readings) / length


def ctc_ids(scores_TV: Tensor) -> list[int]:
    """Classes read greedily: repeats dropped, then blanks."""
    ids = scores_TV.argmax(-1).unique_consecutive().tolist()
    return [n for n in ids if n != BLANK]


def edit_distance(one: Sequence[int], other: Sequence[int]) -> int:
    """Levenshtein's, one row of the table at a time."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(other, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def enlarged(logits_BNhw: Tensor, scale: int) -> Tensor:
    """As a tool enlarges low-resolution logits before it cuts them off: bilinear."""
    if scale == 1:
        return logits_BNhw
    return functional.interpolate(logits_BNhw, scale_factor=scale, mode="bilinear")


def mask_boxes(masks_Nhw: Tensor) -> Tensor:
    """(N, 4) first and last column and row inside; an empty mask's box is the empty one at 0."""
    boxes = [edge for axis in (1, 2) for edge in _edges(masks_Nhw.any(axis))]
    return torch.stack(boxes, 1)


def _edges(inside_NL: Tensor) -> tuple[Tensor, Tensor]:
    """First and one past the last position inside; (0, 0) without any."""
    length, any_N = inside_NL.shape[1], inside_NL.any(1)
    flags = inside_NL.int()
    first = flags.argmax(1)
    last = length - flags.flip(1).argmax(1)
    return first * any_N, last * any_N


def _masks(pairs: Pairs, threshold: float) -> list[tuple[Tensor, Tensor]]:
    """Both sides as planes of booleans."""
    planes = [tuple((side > threshold).flatten(0, -3) for side in pair) for pair in pairs]
    share = torch.cat([reference.float().mean((1, 2)) for reference, _ in planes])
    if not bool(((share > 0) & (share < 1)).any()):
        raise ProbeError("mask probes: expected a mask neither empty nor full, got none")
    return [(reference, candidate) for reference, candidate in planes]


def _ious(pairs: Pairs, threshold: float) -> Tensor:
    """One value per plane; two empty masks agree."""
    values = []
    for reference, candidate in _masks(pairs, threshold):
        both = (reference & candidate).sum((1, 2)).float()
        either = (reference | candidate).sum((1, 2)).float()
        values.append(torch.where(either > 0, both / either.clamp_min(1), 1.0))
    return torch.cat(values)


def _items(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    reference, candidate = pair
    return reference.flatten(1), candidate.flatten(1)


METRICS = {
    "finite": Metric(finite, is_floor=True),
    "cosine": Metric(cosine, is_floor=True),
    "max_abs": Metric(max_abs, is_floor=False),
    "relative_rms": Metric(relative_rms, is_floor=False),
    "mask_iou_mean": Metric(mask_iou_mean, is_floor=True),
    "mask_iou_p01": Metric(mask_iou_p01, is_floor=True),
    "box_px": Metric(box_px, is_floor=False),
    "ctc_argmax": Metric(ctc_argmax, is_floor=True),
    "cer_change": Metric(cer_change, is_floor=False),
}
