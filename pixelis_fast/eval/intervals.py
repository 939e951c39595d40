"""How sure a mean is: intervals over seeds and over samples; the gain of one arm over another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its interval.

    Example:
        str(t_interval([0.70, 0.72, 0.74]))   # "0.720 [0.670, 0.770]"
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def t_interval(values: Sequence[float], *, confidence: float = CONFIDENCE) -> Interval:
    """Student's, for a handful of seeds; two values at least."""
    if len(values) < 2:
        raise ValueError(f"values: expected two or more for an interval, got {len(values)}")
    mean, error = float(np.mean(values)), float(stats.sem(values))
    reach = error * float(stats.t.ppf((1 + confidence) / 2, len(values) - 1))
    return Interval(mean, mean - reach, mean + reach)


def resampled_interval(
    statistic: Callable[[np.ndarray], float],
    count: int,
    *,
    confidence: float = CONFIDENCE,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentiles of a statistic of `count` samples, drawn with replacement; it gets their places.

    Example:
        resampled_interval(lambda places: float(values[places].mean()), len(values))
    """
    if count < 1:
        raise ValueError("values: expected at least one for an interval, got none")
    rng = np.random.default_rng(seed)
    found = [statistic(rng.choice(count, count)) for _ in range(draws)]
    tail = 50 * (1 - confidence)
    low, high = np.percentile(found, [tail, 100 - tail])
    return Interval(statistic(np.arange(count)), float(low), float(high))


def relative_gain(ours: float, baseline: float) -> float | None:
    """(ours - baseline) / baseline; None over a baseline of 0, which nothing is relative to."""
    return (ours - baseline) / baseline if baseline else None
