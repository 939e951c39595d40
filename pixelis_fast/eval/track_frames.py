"""Tracks of trajectories against the boxes that their samples know, as HOTA and IDF1 take them.

A sample's track evidence is one object's: a box per moment. What was found there is the last track
that a trajectory made of that media; a moment that it did not cover counts as not found.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from pixelis_fast.eval.tracking import Frame, TrackingMetrics, tracking_metrics
from pixelis_fast.fidelity_claims import SAME_FRAME_S
from pixelis_fast.types import Box, Evidence, Trajectory


def tracking_of(trajectories: Sequence[Trajectory]) -> TrackingMetrics | None:
    """Over all their frames, each trajectory's object being its own; None without such evidence."""
    truth: list[Frame] = []
    found: list[Frame] = []
    for number, trajectory in enumerate(trajectories):
        for moment in moments(trajectory):
            assert moment.box is not None
            assert moment.time_s is not None
            box = found_at(trajectory, moment.media, moment.time_s)
            truth.append({number: moment.box})
            found.append({} if box is None else {number: box})
    return tracking_metrics(truth, found) if truth else None


def moments(trajectory: Trajectory) -> list[Evidence]:
    """In order of time."""
    known = [
        each
        for each in trajectory.sample.evidence
        if each.operation == "track" and each.box is not None and each.time_s is not None
    ]
    return sorted(known, key=lambda each: (each.media, each.time_s))


def found_at(trajectory: Trajectory, media: int, time_s: float) -> Box | None:
    """Of the last track's frames the nearest, no farther than frames lie apart."""
    rows = last_track(trajectory, media)
    near = [row for row in rows if abs(row[0] - time_s) <= SAME_FRAME_S and row[1] != "lost"]
    if not near:
        return None
    _, x0, y0, x1, y1 = min(near, key=lambda row: abs(row[0] - time_s))
    return x0, y0, x1, y1


def last_track(trajectory: Trajectory, media: int) -> list[list]:
    """[seconds, x0, y0, x1, y1] or [seconds, "lost"] per frame; empty without a track."""
    for step in reversed(trajectory.steps):
        call, observation = step.call, step.observation
        if call is None or observation is None or observation.error is not None:
            continue
        if call.operation == "track" and call.arguments["media"] == media:
            return json.loads(observation.text)["track"]
    return []
