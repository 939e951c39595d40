"""Rewards of groups -> advantages per trajectory -> numbers per token.

A group is one prompt's trajectories. Its mean is the baseline; a group whose rewards are all equal
says nothing and is dropped, as DAPO does (arXiv 2503.14476). The clip and the mean over tokens
belong to the loss. Knows no reward and no policy.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pixelis_fast.types import RolloutStatus, TokenRole, Trajectory

SAMPLED_ROLES = frozenset(
    {TokenRole.THOUGHT, TokenRole.OPERATION, TokenRole.ARGUMENT, TokenRole.ANSWER}
)
UNSCORED = frozenset(
    {RolloutStatus.CANCELLED, RolloutStatus.FAILED, RolloutStatus.TRUNCATED_MAX_TIME, None}
)
"""Ends that say more about the machine than about the policy: never part of a group."""
OVERLONG = frozenset({RolloutStatus.TRUNCATED_MAX_STEPS, RolloutStatus.TRUNCATED_MAX_TOKENS})
SMALLEST_SPREAD = 1e-6


@dataclass(frozen=True)
class AdvantageConfig:
    """DAPO's options; its asymmetric clip is the loss's."""

    divide_by_std: bool = True
    """False leaves rewards in their own unit: no group counts more for being nearly unanimous."""
    least_spread: float = 0.0
    """Divide by no smaller a standard deviation: a group whose answers are equal then differs by as
    little as what shapes them says, and not as much as one that is right beside one that is wrong.
    """
    overlong: str = "keep"
    """"keep": a trajectory cut off by its limits is judged like any other. "mask": it counts in its
    group's baseline, and the policy learns nothing from its tokens."""

    def __post_init__(self) -> None:
        if self.overlong not in ("keep", "mask"):
            raise ValueError(f"overlong: expected 'keep' or 'mask', got {self.overlong!r}")
        if not 0 <= self.least_spread < float("inf"):
            raise ValueError(f"least_spread: expected a number >= 0, got {self.least_spread}")


@dataclass(frozen=True)
class GroupAdvantages:
    """One advantage per trajectory, and what was left out.

    Example:
        GroupAdvantages(values=(1.0, -1.0, 0.0, 0.0), used=(0, 1), dropped_groups=1, num_groups=2)
    """

    values: tuple[float, ...]
    """0 for those that are not used."""
    used: tuple[int, ...]
    """Indices of the trajectories that the policy learns from."""
    dropped_groups: int
    num_groups: int


def group_advantages(
    rewards: Sequence[float],
    groups: Sequence[int],
    trajectories: Sequence[Trajectory],
    config: AdvantageConfig | None = None,
) -> GroupAdvantages:
    """`groups[i]` is the group of trajectory i; ValueError for a reward that is no number."""
    config = config or AdvantageConfig()
    if not len(rewards) == len(groups) == len(trajectories):
        sizes = (len(rewards), len(groups), len(trajectories))
        raise ValueError(f"groups: expected one reward, group and trajectory each, got {sizes}")
    if any(reward != reward or abs(reward) == float("inf") for reward in rewards):
        raise ValueError(f"rewards: expected finite numbers, got {list(rewards)}")
    members: dict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group] += [index] if trajectories[index].status not in UNSCORED else []
    values, used, dropped = [0.0] * len(rewards), list[int](), 0
    for indices in members.values():
        found = centred([rewards[i] for i in indices], config)
        dropped += found is None
        for index, value in zip(indices, found or (), strict=False):
            if config.overlong == "keep" or trajectories[index].status not in OVERLONG:
                values[index] = value
                used.append(index)
    return GroupAdvantages(tuple(values), tuple(sorted(used)), dropped, len(members))


def centred(rewards: Sequence[float], config: AdvantageConfig) -> list[float] | None:
    """Minus the mean, over the standard deviation; None for a group that says nothing."""
    if not rewards:
        return None
    mean, spread = statistics.fmean(rewards), statistics.pstdev(rewards)
    if spread < SMALLEST_SPREAD:
        return None
    scale = max(spread, config.least_spread) if config.divide_by_std else 1.0
    return [(reward - mean) / scale for reward in rewards]


def learned_tokens(trajectory: Trajectory) -> list[bool]:
    """True for the tokens that the policy chose: sampled, not forced, in a turn of its own."""
    return [
        role in SAMPLED_ROLES and not forced
        for role, forced in zip(trajectory.roles, trajectory.forced, strict=True)
    ]


def token_advantages(trajectory: Trajectory, advantage: float) -> list[float]:
    """The trajectory's advantage at each token that the policy chose, 0 elsewhere."""
    return [advantage if learned else 0.0 for learned in learned_tokens(trajectory)]
