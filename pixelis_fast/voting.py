"""The vote over whole trajectories: pseudo-label, confidence, abstention, exemplar.

    weight = VisFid · exp(-rate · max(0, T - T0) / T0) · neighbourhood
    neighbourhood = (prior + sum of support · behaviour) / (prior + sum of support)
    support of a neighbour = max(similarity, 0) · its success

T counts calls. Without neighbours (or with none that succeeded) the neighbourhood is 1. Dividing
by the same sum for all trajectories changes no vote: with a prior of 0 this is the bare sum over
neighbours. Trajectories of one canonical answer form a cluster; confidence is the margin between
the two heaviest clusters over the weight of all trajectories, those without an answer included.

Sums are exactly rounded, so the order of trajectories and neighbours changes no bit. Knows no
policy, no tools and no memory folder.

Shapes: G = trajectories of the group.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pixelis_fast.memory.experience import Neighbour
from pixelis_fast.types import Trajectory
from pixelis_fast.voting_answers import canonical
from pixelis_fast.voting_behaviour import Behaviour, behaviour_of, similarity
from pixelis_fast.voting_config import VoteKind, VotingConfig

__all__ = ["Cluster", "Vote", "VoteKind", "VotingConfig", "canonical", "vote"]


@dataclass(frozen=True)
class Cluster:
    """Trajectories that agree.

    Example:
        Cluster(answer="24", members=(0, 2, 3), weight=1.7)
    """

    answer: str
    """Canonical."""
    members: tuple[int, ...]
    weight: float


@dataclass(frozen=True)
class Vote:
    """What a group says.

    Example:
        result = vote(trajectories, neighbours, fidelities, VotingConfig())
        if not result.abstained: learn(result.answer, trajectories[result.exemplar_index])
    """

    answer: str | None
    """Canonical answer of the heaviest cluster, also where the vote abstains; None without any."""
    confidence: float
    """0..1."""
    weights_G: tuple[float, ...]
    clusters: tuple[Cluster, ...]
    """Heaviest first."""
    exemplar_index: int | None
    """The shortest high-fidelity trajectory of the heaviest cluster."""
    abstained: bool


def vote(
    trajectories: Sequence[Trajectory],
    neighbours: Sequence[Neighbour],
    fidelities: Sequence[float],
    config: VotingConfig,
) -> Vote:
    """`fidelities` are VisFid, one per trajectory; neighbours of the query, in any order."""
    _check(trajectories, fidelities)
    weights_G = weigh(trajectories, neighbours, fidelities, config)
    clusters = clusters_of(trajectories, weights_G)
    if not clusters:
        return Vote(None, 0.0, weights_G, (), None, abstained=True)
    confidence = _margin(clusters, weights_G)
    exemplar = _exemplar(clusters[0], trajectories, fidelities, config.fidelity_slack)
    abstained = confidence < config.gate or confidence == 0
    return Vote(clusters[0].answer, confidence, weights_G, clusters, exemplar, abstained)


def _check(trajectories: Sequence[Trajectory], fidelities: Sequence[float]) -> None:
    if not trajectories:
        raise ValueError("trajectories: expected at least one, got none")
    if len(fidelities) != len(trajectories):
        raise ValueError(
            f"fidelities: expected {len(trajectories)}, one per trajectory, got {len(fidelities)}"
        )
    for number, fidelity in enumerate(fidelities):
        if not 0 <= fidelity <= 1:
            raise ValueError(
                f"fidelities: expected numbers from 0 to 1, got {fidelity} at {number}"
            )


def weigh(
    trajectories: Sequence[Trajectory],
    neighbours: Sequence[Neighbour],
    fidelities: Sequence[float],
    config: VotingConfig,
) -> tuple[float, ...]:
    """(G) weights, none negative."""
    if config.kind is VoteKind.MAJORITY:
        return (1.0,) * len(trajectories)
    pairs = zip(trajectories, fidelities, strict=True)
    own_G = [fidelity * length_prior(num_calls(each), config) for each, fidelity in pairs]
    if config.kind is VoteKind.NO_RETRIEVAL or not neighbours:
        return tuple(own_G)
    around_G = neighbourhoods(trajectories, neighbours, config)
    return tuple(own * around for own, around in zip(own_G, around_G, strict=True))


def num_calls(trajectory: Trajectory) -> int:
    """Calls that were answered, by a result or an error."""
    return sum(step.observation is not None for step in trajectory.steps)


def length_prior(calls: int, config: VotingConfig) -> float:
    excess = max(0, calls - config.free_steps) / config.free_steps
    return math.exp(-config.length_rate * excess)


def neighbourhoods(
    trajectories: Sequence[Trajectory], neighbours: Sequence[Neighbour], config: VotingConfig
) -> list[float]:
    """(G) in 0..1: how much each trajectory acts as successful neighbours did."""
    supports = [max(n.similarity, 0.0) * n.experience.outcome.success for n in neighbours]
    weight = math.fsum([config.neighbour_prior, *supports])
    if weight == 0:
        return [1.0] * len(trajectories)
    theirs = [behaviour_of(n.experience.trajectory) for n in neighbours]
    ours = [behaviour_of(trajectory) for trajectory in trajectories]
    return [_likeness(one, theirs, supports, config) / weight for one in ours]


def _likeness(
    one: Behaviour, theirs: Sequence[Behaviour], supports: Sequence[float], config: VotingConfig
) -> float:
    share = config.operation_share
    pairs = zip(theirs, supports, strict=True)
    terms = [support * similarity(one, other, operation_share=share) for other, support in pairs]
    return math.fsum([config.neighbour_prior, *terms])


def clusters_of(
    trajectories: Sequence[Trajectory], weights_G: Sequence[float]
) -> tuple[Cluster, ...]:
    """Heaviest first, equal ones by their answer; trajectories without an answer are in none."""
    members: defaultdict[str, list[int]] = defaultdict(list)
    for number, trajectory in enumerate(trajectories):
        if trajectory.answer is not None:
            members[canonical(trajectory.answer)].append(number)
    clusters = [
        Cluster(answer, tuple(found), math.fsum(weights_G[i] for i in found))
        for answer, found in members.items()
    ]
    return tuple(sorted(clusters, key=lambda cluster: (-cluster.weight, cluster.answer)))


def _margin(clusters: Sequence[Cluster], weights_G: Sequence[float]) -> float:
    total = math.fsum(weights_G)
    second = clusters[1].weight if len(clusters) > 1 else 0.0
    return (clusters[0].weight - second) / total if total else 0.0


def _exemplar(
    winner: Cluster, trajectories: Sequence[Trajectory], fidelities: Sequence[float], slack: float
) -> int:
    """Fewest calls, then fewest tokens, then highest fidelity; the tokens themselves settle it."""
    floor = max(fidelities[i] for i in winner.members) - slack
    good = [i for i in winner.members if fidelities[i] >= floor]

    def order(i: int) -> tuple[int, int, float, list[int]]:
        ids = trajectories[i].ids
        return num_calls(trajectories[i]), len(ids), -fidelities[i], ids

    return min(good, key=order)
