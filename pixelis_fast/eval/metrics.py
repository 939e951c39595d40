"""What a set of trajectories is worth: answers, evidence, length and validity of the chains.

A *turn* is any step; a *call* is a turn that called, or tried to. A call is valid where it parsed
and its tool took it. Shares are of all turns, calls or pairs together, not means of trajectories.
What no trajectory allows to measure is None, never 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pixelis_fast.fidelity import evidence_scores, visual_fidelity
from pixelis_fast.scoring import answer_score
from pixelis_fast.types import Step, Trajectory

COHERENT_FROM = 0.5
"""Least cosine of two steps' embeddings that belong together."""


@dataclass(frozen=True)
class ChainMetrics:
    """Means and shares over a set of trajectories.

    Example:
        chain_metrics(trajectories).accuracy   # 0.71
    """

    count: int
    accuracy: float | None
    """Mean answer score; None where no sample has an answer."""
    visfid: float | None
    """Mean visual fidelity against the truth; None where no sample has evidence."""
    length: float
    """Calls per trajectory, failed ones included."""
    validity: float | None
    """Share of calls that are valid; None without a call."""
    rapr: float | None
    """Share of turns, the answers included, that are valid pixel operations."""
    racpr: float | None
    """Share of adjacent pairs of calls that are both valid and coherent: the cosine of their
    embeddings is at least COHERENT_FROM and the second does not repeat the first. None without a
    pair, and where steps have no embeddings."""


def chain_metrics(trajectories: Sequence[Trajectory]) -> ChainMetrics:
    if not trajectories:
        raise ValueError("trajectories: expected at least one, got none")
    judged = [t for t in trajectories if t.sample.evidence]
    chains = [calls_of(trajectory) for trajectory in trajectories]
    calls = [step for chain in chains for step in chain]
    return ChainMetrics(
        count=len(trajectories),
        accuracy=mean_or_none(answer_scores(trajectories)),
        visfid=mean_or_none(visual_fidelity(trajectory) for trajectory in judged),
        length=len(calls) / len(trajectories),
        validity=mean_or_none(is_valid(step) for step in calls),
        rapr=mean_or_none(is_valid(step) for t in trajectories for step in t.steps),
        racpr=_racpr([pair for chain in chains for pair in pairwise(chain)]),
    )


def answer_scores(trajectories: Iterable[Trajectory]) -> list[float]:
    """Of those whose sample has an answer."""
    return [
        answer_score(t.sample.answer_kind, t.answer, t.sample.answer)
        for t in trajectories
        if t.sample.answer is not None
    ]


def calls_of(trajectory: Trajectory) -> list[Step]:
    """Its turns that called or tried to."""
    return [step for step in trajectory.steps if step.call or step.observation]


def is_valid(step: Step) -> bool:
    """It parsed, and its tool took it."""
    if step.call is None or step.observation is None:
        return False
    return step.observation.error is None


def _racpr(pairs: Sequence[tuple[Step, Step]]) -> float | None:
    """None where no step has an embedding. One that a run's end left without is no call that
    worked; should it be one, nothing is known of its pairs."""
    if not any(step.embedding for pair in pairs for step in pair):
        return None
    worked = [is_valid(one) and is_valid(other) for one, other in pairs]
    known = [bool(one.embedding and other.embedding) for one, other in pairs]
    return mean_or_none(
        are_valid and are_coherent(*pair)
        for pair, are_valid, is_known in zip(pairs, worked, known, strict=True)
        if is_known or not are_valid
    )


def are_coherent(one: Step, other: Step) -> bool:
    return one.call != other.call and cosine(one, other) >= COHERENT_FROM


def cosine(one: Step, other: Step) -> float:
    """0 where an embedding is zero."""
    a, b = np.array(one.embedding), np.array(other.embedding)
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths else 0.0


def grounding(trajectories: Iterable[Trajectory]) -> dict[str, float]:
    """Mean agreement with the truth by operation: mask or box IoU for segment, track and
    properties, ANLS for read_text, temporal IoU for localize, the held view for zoom."""
    scores: dict[str, list[float]] = {}
    for trajectory in trajectories:
        for step, score in zip(trajectory.steps, evidence_scores(trajectory), strict=True):
            if step.call is not None and score is not None:
                scores.setdefault(step.call.operation, []).append(score)
    return {operation: float(np.mean(found)) for operation, found in sorted(scores.items())}


def stage_percentiles(
    trajectories: Sequence[Trajectory], ranks: Sequence[float] = (50, 90, 99)
) -> dict[str, dict[str, float]]:
    """{"decode": {"p50": 12.1, …}, …} in milliseconds per trajectory; "total" is their sum.

    A stage that a trajectory did not have took it 0 ms.
    """
    totals = [sum(t.stage_ms.values()) for t in trajectories]
    stages = sorted({stage for t in trajectories for stage in t.stage_ms})
    columns = {stage: [t.stage_ms.get(stage, 0.0) for t in trajectories] for stage in stages}
    return {
        stage: {f"p{rank:g}": float(np.percentile(column, rank)) for rank in ranks}
        for stage, column in {**columns, "total": totals}.items()
        if column
    }


def mean_or_none(values: Iterable[float | bool]) -> float | None:
    known = list(values)
    return sum(known) / len(known) if known else None
