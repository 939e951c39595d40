"""A query's group: who may vote, the pseudo-rewards of the vote, and what is remembered of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pixelis_fast.advantages import UNSCORED, AdvantageConfig, group_advantages
from pixelis_fast.memory import Experience, MemoryKey, Neighbour, Outcome, Provenance, Source
from pixelis_fast.phases.ttrl_lesson import Lesson
from pixelis_fast.phases.ttrl_types import Judges, TtrlConfig
from pixelis_fast.types import Trajectory
from pixelis_fast.voting import Vote, VoteKind, canonical, vote


@dataclass(frozen=True)
class Group:
    """Trajectories that ran to an end of their own, and their vote.

    Example:
        group = hold_vote(trajectories, neighbours, judge, config)
    """

    trajectories: tuple[Trajectory, ...]
    """Those that voted."""
    fidelities: tuple[float, ...]
    vote: Vote | None
    """None where nobody could vote."""
    confidence: float
    """The vote's, times the share of the group that voted."""
    abstained: bool
    broken: str = ""
    """`broken_ends` of the whole group."""


def hold_vote(
    trajectories: Sequence[Trajectory],
    neighbours: Sequence[Neighbour],
    judge: Judges,
    config: TtrlConfig,
) -> Group:
    """A trajectory without complete steps has no behaviour to compare and does not vote."""
    voters = [trajectory for trajectory in trajectories if can_vote(trajectory)]
    broken = broken_ends(trajectories)
    if not voters:
        return Group((), (), None, 0.0, abstained=True, broken=broken)
    # A majority asks nobody how well they looked.
    counts_only = config.voting.kind is VoteKind.MAJORITY
    fidelities = [0.0 if counts_only else judge(trajectory) for trajectory in voters]
    found = vote(voters, neighbours, fidelities, config.voting)
    confidence = found.confidence * len(voters) / len(trajectories)
    abstained = found.abstained or confidence < config.voting.gate
    return Group(tuple(voters), tuple(fidelities), found, confidence, abstained, broken)


def can_vote(trajectory: Trajectory) -> bool:
    steps = trajectory.steps
    whole = bool(steps) and all(step.embedding is not None for step in steps)
    return whole and trajectory.status not in UNSCORED


def broken_ends(trajectories: Sequence[Trajectory]) -> str:
    """How many the machine ended, how, and the first error; "" where it ended none.

    Example:
        broken_ends(group)  # "2 of 8 failed: RuntimeError: out of memory"
    """
    ends = Counter(t.status.value for t in trajectories if t.status and t.status in UNSCORED)
    told = ", ".join(f"{count} of {len(trajectories)} {end}" for end, count in ends.items())
    errors = [trajectory.error for trajectory in trajectories if trajectory.error]
    return f"{told}: {errors[0]}" if told and errors else told


def lesson_of(group: Group, tenant: str, config: TtrlConfig) -> Lesson:
    """Advantages of the pseudo-rewards inside the group."""
    assert group.vote is not None, "a group that abstained teaches nothing"
    rewards = [
        pseudo_reward(trajectory, fidelity, group.vote.answer, config)
        for trajectory, fidelity in zip(group.trajectories, group.fidelities, strict=True)
    ]
    spread = AdvantageConfig(least_spread=config.least_spread)
    found = group_advantages(rewards, [0] * len(rewards), group.trajectories, spread)
    return Lesson(group.trajectories, found.values, group.vote.exemplar_index, tenant)


def pseudo_reward(
    trajectory: Trajectory, fidelity: float, label: str | None, config: TtrlConfig
) -> float:
    """Agreement with the label, partly owed to having looked, minus the share of broken calls."""
    agrees = trajectory.answer is not None and canonical(trajectory.answer) == label
    looked = 1 - config.fidelity_share + config.fidelity_share * fidelity
    return agrees * looked - config.invalid_weight * invalid_share(trajectory)


def invalid_share(trajectory: Trajectory) -> float:
    """Of its turns that were to be calls: those that did not parse or came back as an error."""
    tried = [step for step in trajectory.steps if step.observation is not None]
    broken = [s for s in tried if s.call is None or (s.observation and s.observation.error)]
    return len(broken) / len(tried) if tried else 0.0


def experience_of(group: Group, key: MemoryKey, tenant: str, number: int) -> Experience | None:
    """The exemplar with what it is worth to later votes: nothing where this one abstained."""
    if group.vote is None or group.vote.exemplar_index is None:
        return None
    index = group.vote.exemplar_index
    trajectory = group.trajectories[index]
    return Experience(
        id=f"{trajectory.sample.id}#{number}",
        tenant=tenant,
        sample_id=trajectory.sample.id,
        question=trajectory.sample.question,
        trajectory=trajectory,
        key=key,
        outcome=Outcome(
            answer=group.vote.answer,
            confidence=group.confidence,
            success=0.0 if group.abstained else group.confidence,
        ),
        visfid=group.fidelities[index],
        provenance=Provenance(trajectory.policy_version, time.time(), Source.TTRL),
    )
