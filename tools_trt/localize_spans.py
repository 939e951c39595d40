"""From scores of sampled frames to spans of time: threshold, join, refine the edges, rank.

An edge lies between a sample that is in and one that is out; bisection asks for the score of frames
between them, so edges are exact to the frame at a logarithmic price. Knows no event.

Shapes: T = sampled frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from pixelis_fast.tools_trt.results import ScoredSpan


class FrameScore(Protocol):
    """How strongly each frame shows the event."""

    def __call__(self, numbers: Sequence[int]) -> np.ndarray:
        """Frame numbers -> (T,) scores."""


def runs_above(scores_T: np.ndarray, threshold: float, *, max_gap: int) -> list[tuple[int, int]]:
    """(first, last) sample of each stretch at or above the threshold, gaps up to max_gap joined."""
    runs: list[tuple[int, int]] = []
    for n in np.flatnonzero(scores_T >= threshold).tolist():
        if runs and n - runs[-1][1] <= max_gap + 1:
            runs[-1] = runs[-1][0], n
        else:
            runs.append((n, n))
    return runs


def refine_run(
    run: tuple[int, int], numbers: Sequence[int], score: FrameScore, threshold: float
) -> tuple[int, int]:
    """(first, last) frame of a run of samples."""
    first, last = numbers[run[0]], numbers[run[1]]
    if run[0] > 0:
        first = _edge(first, numbers[run[0] - 1], score, threshold)
    if run[1] + 1 < len(numbers):
        last = _edge(last, numbers[run[1] + 1], score, threshold)
    return first, last


def _edge(inside: int, outside: int, score: FrameScore, threshold: float) -> int:
    """The frame closest to `outside` that is still in, if the score falls once on the way."""
    while abs(outside - inside) > 1:
        middle = (inside + outside) // 2
        if float(score([middle])[0]) >= threshold:
            inside = middle
        else:
            outside = middle
    return inside


def ranked(spans: Sequence[ScoredSpan]) -> tuple[ScoredSpan, ...]:
    """Best first; the earlier one in a tie."""
    return tuple(sorted(spans, key=lambda span: (-span.score, span.start_s)))


def median_of_three(scores_T: np.ndarray) -> np.ndarray:
    """Each score replaced by the median of itself and its neighbours: lone peaks vanish."""
    padded = np.pad(scores_T, 1, mode="edge")
    return np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)
