"""HOTA and IDF1 by hand, and against TrackEval where it is installed."""

import json

import numpy as np
import pytest

from pixelis_fast.eval.track_frames import tracking_of
from pixelis_fast.eval.tracking import overlaps, tracking_metrics
from pixelis_fast.types import (
    Evidence,
    Media,
    MediaKind,
    Observation,
    Sample,
    Step,
    ToolCall,
    Trajectory,
)

HERE, THERE, BESIDE = (0, 0, 100, 100), (500, 500, 600, 600), (50, 0, 150, 100)


def test_a_perfect_track():
    frames = [{1: HERE, 2: THERE}] * 3
    metrics = tracking_metrics(frames, [{7: HERE, 9: THERE}] * 3)
    assert metrics.hota == metrics.idf1 == 1


def test_an_object_whose_id_changes_half_way():
    metrics = tracking_metrics([{1: HERE}] * 4, [{1: HERE}] * 2 + [{2: HERE}] * 2)
    assert metrics.deta == 1
    assert metrics.assa == pytest.approx(0.5)
    assert metrics.hota == pytest.approx(0.5**0.5)
    assert metrics.idf1 == pytest.approx(0.5)


def test_half_of_it_lost_and_a_ghost():
    metrics = tracking_metrics([{1: HERE}] * 2, [{1: HERE}, {5: THERE}])
    # One hit, one miss, one false find: 1 / 3 detected; the hit's track lacks one of two frames.
    assert metrics.deta == pytest.approx(1 / 3)
    assert metrics.assa == pytest.approx(1 / 2)
    assert metrics.idf1 == pytest.approx(2 / 4)


def test_overlap_decides_by_threshold():
    metrics = tracking_metrics([{1: HERE}], [{1: BESIDE}])
    # A third of overlap passes 0.05 … 0.30, six of nineteen thresholds, and fails IDF1's half.
    assert metrics.hota == pytest.approx(6 / 19)
    assert metrics.idf1 == 0


def test_one_close_meeting_does_not_swap_ids():
    apart = {1: HERE, 2: THERE}
    true = {1: (0, 0, 100, 100), 2: (20, 0, 120, 100)}
    # Each found box overlaps the other's object a little more than its own (92 / 108, 88 / 112).
    seen = {1: (12, 0, 112, 100), 2: (8, 0, 108, 100)}
    metrics = tracking_metrics([apart] * 9 + [true], [apart] * 9 + [seen])
    # All match up to 0.75; at the four thresholds above, the meeting is missed by both.
    assert metrics.hota == pytest.approx((15 + 4 * 9 / 11) / 19)


def test_nothing_found():
    metrics = tracking_metrics([{1: HERE}], [{}])
    assert metrics.hota == metrics.idf1 == 0


def test_what_cannot_be_compared():
    with pytest.raises(ValueError, match="found: expected 2 frames"):
        tracking_metrics([{1: HERE}] * 2, [{}])
    with pytest.raises(ValueError, match="truth: expected at least one box"):
        tracking_metrics([{}], [{1: HERE}])


def tracked(*rows, evidence, lost: bool = False) -> Trajectory:
    media = Media("m", MediaKind.VIDEO, 320, 200, 10, 1.0)
    sample = Sample("s", (media,), "where?", evidence=evidence)
    arguments = {"media": 0, "box": list(HERE), "start": 0.0, "end": 1.0}
    observation = Observation(json.dumps({"track": list(rows)}), error="lost" if lost else None)
    step = Step(0, 0, ToolCall("track", arguments), observation)
    return Trajectory(sample, policy_version="v", seed=0, steps=[step, Step(0, 0)])


def test_trajectories_are_held_against_their_samples():
    truth = tuple(Evidence("track", box=HERE, time_s=t) for t in (0.5, 0.0))
    right = tracked([0.0, *HERE], [0.52, *HERE], evidence=truth)
    assert tracking_of([right]).hota == 1
    half = tracked([0.0, *HERE], [0.5, "lost"], evidence=truth)
    # Four objects' moments, three of them found.
    assert tracking_of([right, half]).deta == pytest.approx(3 / 4)
    failed = tracked([0.0, *HERE], evidence=truth, lost=True)
    assert tracking_of([failed]).hota == 0
    untold = tracked([0.0, *HERE], evidence=(Evidence("track", span=(0, 1)),))
    assert tracking_of([untold]) is None


@pytest.mark.parametrize("seed", range(8))
def test_as_trackeval_says(seed):
    trackeval = pytest.importorskip(
        "trackeval", reason="needs trackeval: pip install --no-deps trackeval"
    )
    rng = np.random.default_rng(seed)
    truth, found = random_scene(rng)
    data = as_trackeval(truth, found)
    hota = trackeval.metrics.HOTA().eval_sequence(data)
    identity = trackeval.metrics.Identity({"PRINT_CONFIG": False}).eval_sequence(data)
    ours = tracking_metrics(truth, found)
    assert ours.hota == pytest.approx(hota["HOTA"].mean())
    assert ours.deta == pytest.approx(hota["DetA"].mean())
    assert ours.assa == pytest.approx(hota["AssA"].mean())
    assert ours.idf1 == pytest.approx(identity["IDF1"])


def random_scene(rng):
    """Three objects that move; found ones are off by a little, lost and renamed at times."""
    truth, found, names = [], [], {0: 0, 1: 1, 2: 2}
    for frame in range(12):
        true, seen = {}, {}
        for name in range(3):
            x, y = 40 * frame + 5 * name, 12 * name
            if rng.random() < 0.9:
                true[name] = (x, y, x + 80, y + 80)
            if rng.random() < 0.1:
                names[name] = max(names.values()) + 1
            if rng.random() < 0.85:
                dx, dy = rng.integers(-15, 16, 2).tolist()
                seen[names[name]] = (x + dx, y + dy, x + dx + 80, y + dy + 80)
        truth.append(true)
        found.append(seen)
    return truth, found


def as_trackeval(truth, found):
    true_ids, found_ids = (
        {name: i for i, name in enumerate(sorted({n for f in frames for n in f}))}
        for frames in (truth, found)
    )
    return {
        "num_gt_ids": len(true_ids),
        "num_tracker_ids": len(found_ids),
        "num_gt_dets": sum(map(len, truth)),
        "num_tracker_dets": sum(map(len, found)),
        "gt_ids": [np.array([true_ids[n] for n in f], int) for f in truth],
        "tracker_ids": [np.array([found_ids[n] for n in f], int) for f in found],
        "similarity_scores": [overlaps(a, b) for a, b in zip(truth, found, strict=True)],
    }
