"""How alike two trajectories act: their tool chains aligned, times their step embeddings' cosine.

    behaviour = chain · steps
    chain = 2 · alignment / (calls of one + calls of the other), 1 where neither calls
    steps = (1 + cos(mean z, mean z')) / 2

The alignment is the best sum over pairs of calls in order (Needleman and Wunsch, gaps free): a pair
of one operation counts operation_share + (1 - operation_share) · overlap, others 0. A call that
failed or did not parse is like no other.

Everything is float64 and symmetric to the bit. The pairs of one vote are too few for the kernels'
neighbour search (a group beside a handful of neighbours).

Shapes: D = width of a step embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pixelis_fast.types import Mask, Trajectory
from pixelis_fast.voting_footprint import Footprint, footprint, overlap


@dataclass(frozen=True)
class Behaviour:
    """What of a trajectory is compared.

    Example:
        similarity(behaviour_of(one), behaviour_of(other), operation_share=0.5)
    """

    chain: tuple[Footprint | None, ...]
    """Per call; None where it failed."""
    direction_D: np.ndarray
    """Of the step embeddings' mean: length one, or zeros."""


def behaviour_of(trajectory: Trajectory) -> Behaviour:
    """ValueError where a step has no embedding: RolloutConfig(embeddings=True) makes them."""
    embeddings = []
    for number, step in enumerate(trajectory.steps):
        if step.embedding is None:
            raise ValueError(
                f"{trajectory.sample.id}: step {number}: expected an embedding, got none"
            )
        embeddings.append(step.embedding)
    if not embeddings:
        raise ValueError(f"{trajectory.sample.id}: expected at least one step, got none")
    mean_D = np.mean(np.array(embeddings, np.float64), axis=0)
    length = float(np.linalg.norm(mean_D))
    return Behaviour(tuple(_chain(trajectory)), mean_D / length if length else mean_D)


def _chain(trajectory: Trajectory) -> list[Footprint | None]:
    found: list[Footprint | None] = []
    shown, masks = trajectory.sample.media, list[Mask]()
    for step in trajectory.steps:
        if step.observation is None:
            continue
        is_valid = step.call is not None and step.observation.error is None
        found.append(footprint(step.call, shown, masks) if step.call and is_valid else None)
        # A call names one mask at most, the last: a track's others are only seen.
        masks += step.observation.masks[-1:]
    return found


def similarity(one: Behaviour, other: Behaviour, *, operation_share: float) -> float:
    """0..1."""
    chain = chain_similarity(one.chain, other.chain, operation_share=operation_share)
    return chain * embedding_similarity(one.direction_D, other.direction_D)


def chain_similarity(
    one: Sequence[Footprint | None], other: Sequence[Footprint | None], *, operation_share: float
) -> float:
    if not one and not other:
        return 1.0
    best = [0.0] * (len(other) + 1)
    for a in one:
        before = best
        best = [0.0]
        for place, b in enumerate(other):
            paired = before[place] + _call_similarity(a, b, operation_share)
            best.append(max(paired, before[place + 1], best[place]))
    return 2 * best[-1] / (len(one) + len(other))


def _call_similarity(one: Footprint | None, other: Footprint | None, share: float) -> float:
    if one is None or other is None or one.operation != other.operation:
        return 0.0
    return share + (1 - share) * overlap(one, other)


def embedding_similarity(one_D: np.ndarray, other_D: np.ndarray) -> float:
    """0..1 of two directions; one half where one of them is zero."""
    if one_D.shape != other_D.shape:
        raise ValueError(
            f"step embeddings: expected one size, got {one_D.shape} and {other_D.shape}"
        )
    cosine = float(one_D @ other_D)
    return (1 + min(max(cosine, -1.0), 1.0)) / 2
