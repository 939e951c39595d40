"""Shifts of frames: shape, order of severities, determinism."""

from itertools import pairwise

import numpy as np
import pytest

from pixelis_fast.data.shift import SEVERITIES, SHIFTS, ShiftConfig, apply_shift
from tests.scenes import photograph


def frames(count=2):
    picture = photograph("astronaut.png")[:400, 60:460]
    return np.stack([np.roll(picture, 5 * n, axis=1) for n in range(count)])


def shifted(kind, severity, seed=0, of=None):
    of = frames() if of is None else of
    return apply_shift(of, ShiftConfig(kind, severity), np.random.default_rng(seed))


@pytest.mark.parametrize("kind", SHIFTS)
def test_severity_grows_with_distance(kind):
    before = frames().astype(float)
    distances = [np.abs(shifted(kind, n) - before).mean() for n in SEVERITIES]
    assert distances[0] > 0.5
    for less, more in pairwise(distances):
        assert more > 1.08 * less


@pytest.mark.parametrize("kind", SHIFTS)
def test_shape_type_and_original_are_kept(kind):
    original = frames(3)
    copy = original.copy()
    after = shifted(kind, 4, of=original)
    assert after.shape == original.shape
    assert after.dtype == np.uint8
    assert np.array_equal(original, copy)


@pytest.mark.parametrize("kind", SHIFTS)
def test_equal_generators_give_equal_frames(kind):
    assert np.array_equal(shifted(kind, 3, seed=7), shifted(kind, 3, seed=7))


def test_a_video_is_shifted_as_one_camera_would():
    still = np.repeat(frames(1), 2, axis=0)
    for kind in ("lighting", "motion_blur", "color_cast", "scale", "compression"):
        one, other = shifted(kind, 3, of=still)
        assert np.array_equal(one, other)
    one, other = shifted("noise", 3, of=still)
    assert not np.array_equal(one, other)


def test_content_stays_where_it_is():
    dot = np.zeros((1, 65, 81, 3), np.uint8)
    dot[0, 30:35, 40:45] = 255
    y, x = np.mgrid[:65, :81]
    for kind in ("lighting", "motion_blur", "scale"):
        weight = shifted(kind, 5, of=dot)[0].sum(2).astype(float)
        centre = (weight * y).sum() / weight.sum(), (weight * x).sum() / weight.sum()
        assert centre == pytest.approx((32, 42), abs=0.6)


@pytest.mark.parametrize(
    ("kind", "severity", "named"),
    [("fog", 1, "kind"), ("noise", 0, "severity"), ("noise", 6, "se")],
)
def test_unknown_shifts_are_refused(kind, severity, named):
    with pytest.raises(ValueError, match=named):
        ShiftConfig(kind, severity)


def test_frames_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"frames: expected uint8"):
        shifted("noise", 1, of=frames()[0])
