"""How a version does on fixed samples whose answers are known: the gate before every publish."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from pixelis_fast.corridor import CanaryScore
from pixelis_fast.phases.ttrl_group import broken_ends, invalid_share
from pixelis_fast.phases.ttrl_types import RunGroup
from pixelis_fast.policy.published import Published
from pixelis_fast.scoring import answer_score
from pixelis_fast.types import Sample


class Canary:
    """The samples, run greedily.

    Example:
        score = Canary(samples, run)(candidate)
    """

    def __init__(self, samples: Sequence[Sample], run: RunGroup) -> None:
        if not samples:
            raise ValueError("canary: expected at least one sample, got none")
        if missing := [sample.id for sample in samples if sample.answer is None]:
            raise ValueError(f"canary: expected an answer in every sample, got none in {missing}")
        self._samples, self._run = list(samples), run

    def __call__(self, under: Published | None = None) -> CanaryScore:
        """Of a candidate, or of what is served."""
        trajectories = self._run(self._samples, seed=0, temperature=0.0, under=under)
        scores = [
            answer_score(sample.answer_kind, trajectory.answer, sample.answer or "")
            for sample, trajectory in zip(self._samples, trajectories, strict=True)
        ]
        return CanaryScore(
            accuracy=statistics.fmean(scores),
            invalid_rate=statistics.fmean(map(invalid_share, trajectories)),
            num_samples=len(scores),
            broken=broken_ends(trajectories),
        )
