"""Intervals by hand and by coverage."""

import numpy as np
import pytest

from pixelis_fast.eval.intervals import (
    bootstrap_interval,
    paired_interval,
    relative_gain,
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
    interval = bootstrap_interval(values)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 2 / 20, rel=0.15)
    assert interval == bootstrap_interval(values)
    assert interval != bootstrap_interval(values, seed=1)


def test_pairs_know_that_samples_are_the_same():
    rng = np.random.default_rng(0)
    baseline = rng.random(200)
    ours = baseline + 0.1 + rng.normal(0, 0.01, 200)
    paired = paired_interval(ours, baseline)
    assert paired.mean == pytest.approx(0.1, abs=0.01)
    assert paired.high - paired.low < 0.01
    with pytest.raises(ValueError, match="ours: expected 200 values, got 199"):
        paired_interval(ours[1:], baseline)


def test_too_few_values():
    with pytest.raises(ValueError, match="values: expected two or more"):
        t_interval([0.5])
    with pytest.raises(ValueError, match="values: expected at least one"):
        bootstrap_interval([])


def test_gains_are_relative_to_the_baseline():
    assert relative_gain(0.78, 0.75) == pytest.approx(0.04)
    assert relative_gain(0.5, 0.0) is None
