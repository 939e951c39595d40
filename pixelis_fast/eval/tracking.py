"""HOTA and IDF1 of tracked boxes.

IDF1 is motmetrics'. HOTA is the definition of Luiten et al. (IJCV 2021) over the 19 thresholds
0.05 … 0.95: motmetrics has none, and TrackEval's package asks for opencv-python, which overwrites
the headless build that the tools run on. The tests hold both against TrackEval.

Shapes: G = true ids, P = found ids, g and p = those of one frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from pixelis_fast.scoring import box_iou
from pixelis_fast.types import Box

Frame = Mapping[int, Box]
"""Boxes by track id."""
THRESHOLDS = np.arange(0.05, 0.99, 0.05)
IDENTITY_IOU = 0.5
"""Least overlap of a match for IDF1."""
ROUNDING = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class TrackingMetrics:
    """0 to 1 each.

    Example:
        tracking_metrics([{0: (0, 0, 10, 10)}], [{7: (0, 0, 10, 10)}]).hota   # 1.0
    """

    hota: float
    deta: float
    """Detection accuracy, mean over thresholds."""
    assa: float
    """Association accuracy, mean over thresholds."""
    idf1: float


def tracking_metrics(truth: Sequence[Frame], found: Sequence[Frame]) -> TrackingMetrics:
    """Frame by frame; an id may be missing where its object is not seen."""
    if len(truth) != len(found):
        raise ValueError(f"found: expected {len(truth)} frames as in truth, got {len(found)}")
    if not any(truth):
        raise ValueError("truth: expected at least one box, got none")
    hota, deta, assa = _hota(truth, found)
    return TrackingMetrics(hota, deta, assa, idf1(truth, found))


def idf1(truth: Sequence[Frame], found: Sequence[Frame]) -> float:
    """By motmetrics; 0 where nothing was found."""
    # pandas comes with it: half a second that only this metric pays.
    import motmetrics

    accumulator = motmetrics.MOTAccumulator(auto_id=True)
    for true, seen in zip(truth, found, strict=True):
        overlap = overlaps(true, seen)
        distances = np.where(overlap >= IDENTITY_IOU, 1 - overlap, np.nan)
        accumulator.update(list(true), list(seen), distances)
    table = motmetrics.metrics.create().compute(accumulator, metrics=["idf1"])
    value = float(table["idf1"].iloc[0])
    return 0.0 if np.isnan(value) else value


def overlaps(true: Frame, seen: Frame) -> np.ndarray:
    """(g, p) intersection over union."""
    rows = [[box_iou(one, other) for other in seen.values()] for one in true.values()]
    return np.array(rows, dtype=np.float64).reshape(len(true), len(seen))


def _hota(truth: Sequence[Frame], found: Sequence[Frame]) -> tuple[float, float, float]:
    counts = _Counts(truth, found)
    matches_TGP = np.zeros((len(THRESHOLDS), *counts.shared_GP.shape))
    for true, seen in zip(truth, found, strict=True):
        counts.match(true, seen, matches_TGP)
    hits_T = matches_TGP.sum((1, 2))
    either_GP = counts.true_G[:, None] + counts.found_P[None, :] - matches_TGP
    assa_T = (matches_TGP * matches_TGP / np.maximum(1, either_GP)).sum((1, 2))
    assa_T = assa_T / np.maximum(1, hits_T)
    deta_T = hits_T / (counts.true_G.sum() + counts.found_P.sum() - hits_T)
    hota_T = np.sqrt(deta_T * assa_T)
    return float(hota_T.mean()), float(deta_T.mean()), float(assa_T.mean())


class _Counts:
    """How often each id was there, and how much two ids overlap over all frames."""

    def __init__(self, truth: Sequence[Frame], found: Sequence[Frame]) -> None:
        self._rows = {name: i for i, name in enumerate(sorted({n for f in truth for n in f}))}
        self._columns = {name: i for i, name in enumerate(sorted({n for f in found for n in f}))}
        self.true_G, self.found_P = np.zeros(len(self._rows)), np.zeros(len(self._columns))
        self.shared_GP = np.zeros((len(self._rows), len(self._columns)))
        for true, seen in zip(truth, found, strict=True):
            self._add(true, seen)
        union_GP = self.true_G[:, None] + self.found_P[None, :] - self.shared_GP
        self.alignment_GP = self.shared_GP / union_GP

    def _add(self, true: Frame, seen: Frame) -> None:
        rows, columns = self._places(true, seen)
        self.true_G[rows] += 1
        self.found_P[columns] += 1
        similarity = overlaps(true, seen)
        total = similarity.sum(0, keepdims=True) + similarity.sum(1, keepdims=True) - similarity
        shared = np.divide(similarity, total, out=np.zeros_like(total), where=total > ROUNDING)
        self.shared_GP[np.ix_(rows, columns)] += shared

    def match(self, true: Frame, seen: Frame, matches_TGP: np.ndarray) -> None:
        """Adds one frame's matches: one assignment, kept where its overlap reaches a threshold."""
        rows, columns = self._places(true, seen)
        similarity = overlaps(true, seen)
        score = self.alignment_GP[np.ix_(rows, columns)] * similarity
        g, p = linear_sum_assignment(-score)
        held_TM = similarity[g, p] >= THRESHOLDS[:, None] - ROUNDING
        for one, other, held_T in zip(g, p, held_TM.T, strict=True):
            matches_TGP[held_T, rows[one], columns[other]] += 1

    def _places(self, true: Frame, seen: Frame) -> tuple[list[int], list[int]]:
        return [self._rows[name] for name in true], [self._columns[name] for name in seen]
