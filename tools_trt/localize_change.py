"""Change points: cuts and fades, from colour histograms and frame differences.

A boundary between two samples scores by the distance of the colours in the samples before and
after it plus the difference of their mean pictures: over a short window for cuts, over a long one
for fades. What stands out of the quieter half of the video (its median and median absolute
deviation) and is the largest around is a change, placed at full frame rate. A cut's span runs from
the last old frame to the first new one.

Shapes: T = sampled frames; h, w = small frame; K = colour bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pixelis_fast.tools_trt.classical.grabcut import color_histogram
from pixelis_fast.tools_trt.localize_frames import SmallFrames
from pixelis_fast.tools_trt.results import ScoredSpan

MAX_SAMPLES = 128
CUT_WINDOW, FADE_WINDOW = 3, 10
"""Samples on each side whose colours are averaged; the least distance between two such changes."""
MIN_CHANGE = 0.35
"""On the scale of `boundary_scores`: camera motion and noise stay below it."""
DEVIATIONS = 6.0


@dataclass(frozen=True)
class Looks:
    """What samples are compared by."""

    histograms_TK: np.ndarray
    pictures_ThwC: np.ndarray


def change_spans(frames: SmallFrames, numbers: list[int]) -> list[ScoredSpan]:
    """Every change between the sampled frames, in time order."""
    if len(numbers) < 2:
        return []
    small_ThwC = frames(numbers)
    looks = Looks(histograms(small_ThwC), blurred(small_ThwC))
    cuts_T, fades_T = (boundary_scores(looks, window=n) for n in (CUT_WINDOW, FADE_WINDOW))
    cuts = _peaks(cuts_T, apart=CUT_WINDOW)
    fades = [
        n for n in _peaks(fades_T, apart=FADE_WINDOW) if all(abs(n - c) > FADE_WINDOW for c in cuts)
    ]
    placed = [_placed_cut(frames, numbers, n, score=float(cuts_T[n])) for n in cuts]
    placed += [_placed_fade(frames, numbers, n, score=float(fades_T[n])) for n in fades]
    return sorted(placed, key=lambda span: span.start_s)


def boundary_scores(looks: Looks, *, window: int) -> np.ndarray:
    """(T - 1,): 0..1, how different the mean pictures on both sides of each boundary are."""
    scores = np.empty(len(looks.pictures_ThwC) - 1)
    for n in range(len(scores)):
        before, after = slice(max(n + 1 - window, 0), n + 1), slice(n + 1, n + 1 + window)
        colors, pictures = looks.histograms_TK, looks.pictures_ThwC
        overlap = np.sqrt(colors[before].mean(0) * colors[after].mean(0)).sum()
        step = np.abs(pictures[after].mean(0) - pictures[before].mean(0)).mean()
        scores[n] = 0.5 * np.sqrt(max(1 - float(overlap), 0.0)) + 0.5 * min(4 * float(step), 1.0)
    return scores


def histograms(small_ThwC: np.ndarray) -> np.ndarray:
    """(T, K): how each sample's colours are shared out."""
    return np.stack([color_histogram(small.reshape(-1, 3)) for small in small_ThwC])


def blurred(small_ThwC: np.ndarray) -> np.ndarray:
    """0..1, without what a shift of a pixel changes."""
    pictures = [cv2.GaussianBlur(small, (5, 5), 0) for small in small_ThwC]
    return np.stack(pictures).astype(np.float32) / 255


def frame_steps(small_ThwC: np.ndarray) -> np.ndarray:
    """(T - 1,): mean absolute difference of neighbours, 0..1."""
    return np.abs(np.diff(blurred(small_ThwC), axis=0)).mean((1, 2, 3))


def _peaks(scores_T: np.ndarray, *, apart: int) -> list[int]:
    # The quieter half is the video's own level: a fade may fill half of a short clip.
    quiet = np.sort(scores_T)[: max(len(scores_T) // 2, 1)]
    middle = float(np.median(quiet))
    spread = 1.4826 * float(np.median(np.abs(quiet - middle)))
    threshold = max(MIN_CHANGE, middle + DEVIATIONS * spread)
    peaks: list[int] = []
    for n in np.argsort(-scores_T, kind="stable").tolist():
        if scores_T[n] >= threshold and all(abs(n - other) >= apart for other in peaks):
            peaks.append(n)
    return peaks


def _placed_cut(
    frames: SmallFrames, numbers: list[int], boundary: int, *, score: float
) -> ScoredSpan:
    first, last = numbers[boundary], numbers[boundary + 1]
    cut = first + int(frame_steps(frames(range(first, last + 1))).argmax())
    return ScoredSpan(frames.time_s(cut), frames.time_s(cut + 1), score)


def _placed_fade(
    frames: SmallFrames, numbers: list[int], boundary: int, *, score: float
) -> ScoredSpan:
    """From a tenth to nine tenths of the difference in the window, beyond its usual level."""
    first = numbers[max(boundary - FADE_WINDOW, 0)]
    last = numbers[min(boundary + 1 + FADE_WINDOW, len(numbers) - 1)]
    steps = frame_steps(frames(range(first, last + 1)))
    shares = np.cumsum((steps - np.percentile(steps, 20)).clip(0)) + 1e-12
    start, end = (int(np.searchsorted(shares / shares[-1], share)) for share in (0.1, 0.9))
    return ScoredSpan(frames.time_s(first + start), frames.time_s(first + end + 1), score)
