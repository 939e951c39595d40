"""Intervals by hand and by coverage."""

import numpy as np
import pytest

from pixelis_fast.eval.intervals import (
    relative_gain,
    resampled_interval,
    t_interval,
)


def test_students_interval_of_three_seeds():
    interval = t_interval([0.70, 0.72, 0.74])
    # 4.3027 is Student's 97.5 % quantile with two degrees of freedom.
    assert interval.mean == pytest.approx(0.72)
    assert interval.high - interval.mean == pytest.approx(4.3027 * 0.02 / 3**0.5, rel=1e-4)
    assert str(interval) == "0.720 [0.670, 0.770]"


def test_the_bootstrap_finds_the_error_of_a_mean():
    values = np.random.default_rng(1).normal(5, 2, 400)

    def mean(places) -> float:
        return float(values[places].mean())

    interval = resampled_interval(mean, 400)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 2 / 20, rel=0.15)
    assert interval == resampled_interval(mean, 400)
    assert interval != resampled_interval(mean, 400, seed=1)


def test_any_statistic_may_be_resampled():
    values = np.random.default_rng(1).normal(5, 2, 400)
    spread = resampled_interval(lambda places: float(values[places].std()), 400)
    # The standard error of a normal sample's deviation is sigma / sqrt(2 n).
    assert spread.mean == pytest.approx(values.std())
    assert spread.high - spread.low == pytest.approx(2 * 1.96 * 2 / 800**0.5, rel=0.2)


def test_too_few_values():
    with pytest.raises(ValueError, match="values: expected two or more"):
        t_interval([0.5])
    with pytest.raises(ValueError, match="values: expected at least one"):
        resampled_interval(lambda places: 0.0, 0)


def test_gains_are_relative_to_the_baseline():
    assert relative_gain(0.78, 0.75) == pytest.approx(0.04)
    assert relative_gain(0.5, 0.0) is None
