"""Entries -> figures: each arm's scores with intervals, its chains, and the gain over the first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pixelis_fast.eval.cases import CaseSet
from pixelis_fast.eval.intervals import relative_gain, resampled_interval, t_interval
from pixelis_fast.eval.journal import Entry
from pixelis_fast.eval.metrics import chain_metrics, grounding, stage_percentiles
from pixelis_fast.eval.track_frames import tracking_of

Json = dict[str, Any]


@dataclass(frozen=True)
class ArmEntries:
    """All entries of one arm: every case with every seed."""

    name: str
    entries: tuple[Entry, ...]

    def scores(self, cases: CaseSet, seed: int) -> list[float]:
        found = {entry.case: entry.score for entry in self.entries if entry.seed == seed}
        return [found[case.id] for case in cases.cases]

    def mean_scores(self, cases: CaseSet, seeds: Sequence[int]) -> list[float]:
        """Per case, over seeds."""
        return np.mean([self.scores(cases, seed) for seed in seeds], axis=0).tolist()


def arm_figures(arm: ArmEntries, cases: CaseSet, seeds: Sequence[int]) -> Json:
    trajectories = [entry.trajectory for entry in arm.entries]
    summaries = [cases.summary(arm.scores(cases, seed)) for seed in seeds]
    chains = asdict(chain_metrics(trajectories))
    # The questions' own scorer stands for it.
    del chains["accuracy"]
    tracks = tracking_of(trajectories)
    statuses = Counter(t.status.value if t.status else "running" for t in trajectories)
    return {
        "scores": {key: float(np.mean([s[key] for s in summaries])) for key in summaries[0]},
        "over_samples": over_samples(cases, arm.mean_scores(cases, seeds)),
        "over_seeds": over_seeds([summary["overall"] for summary in summaries]),
        "chains": chains,
        "grounding": grounding(t for t in trajectories if t.sample.evidence),
        "tracking": None if tracks is None else asdict(tracks),
        "latency_ms": stage_percentiles(trajectories),
        "statuses": dict(sorted(statuses.items())),
    }


def over_samples(cases: CaseSet, scores: Sequence[float], less: Sequence[float] = ()) -> Json:
    """Of the overall score as the questions sum it up; with `less`, of the difference to it."""

    def overall(places: np.ndarray) -> float:
        drawn = places.tolist()
        found = cases.summary(scores, drawn)["overall"]
        return found - cases.summary(less, drawn)["overall"] if less else found

    return asdict(resampled_interval(overall, len(cases.cases)))


def over_seeds(overall: Sequence[float]) -> Json | None:
    """None for a single seed, which says nothing of others."""
    return asdict(t_interval(overall)) if len(overall) > 1 else None


def results(arms: Sequence[ArmEntries], cases: CaseSet, seeds: Sequence[int]) -> Json:
    """The first arm is the baseline of every gain."""
    figures = {arm.name: arm_figures(arm, cases, seeds) for arm in arms}
    baseline, *others = arms
    base = figures[baseline.name]["scores"]["overall"]
    for arm in others:
        pair = arm.mean_scores(cases, seeds), baseline.mean_scores(cases, seeds)
        figures[arm.name]["gain"] = {
            "relative": relative_gain(figures[arm.name]["scores"]["overall"], base),
            "difference": over_samples(cases, *pair),
        }
    return {
        "name": cases.name,
        "cases": len(cases.cases),
        "seeds": list(seeds),
        "baseline": baseline.name,
        "arms": figures,
    }
