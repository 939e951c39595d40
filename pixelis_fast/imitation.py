"""What supervised training imitates of a trajectory: a weight per token, by its role.

METHOD.md, phase 1: prompt and observations weigh nothing, operations and arguments more than
thoughts. A wrong call that a trace shows in order to correct it is read and not imitated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pixelis_fast.types import TokenRole, Trajectory


@dataclass(frozen=True)
class RoleWeights:
    """Example:
    RoleWeights(operation=1, argument=1, answer=1)  # uniform: the ablation
    """

    thought: float = 1.0
    operation: float = 2.0
    argument: float = 2.0
    answer: float = 1.5

    def __post_init__(self) -> None:
        if min(self.thought, self.operation, self.argument, self.answer) < 0:
            raise ValueError(f"role weights: expected numbers from 0, got {self}")

    def of(self, role: TokenRole) -> float:
        return {
            TokenRole.THOUGHT: self.thought,
            TokenRole.OPERATION: self.operation,
            TokenRole.ARGUMENT: self.argument,
            TokenRole.ANSWER: self.answer,
        }.get(role, 0.0)


def token_weights(
    trajectory: Trajectory, imitated: Sequence[bool], weights: RoleWeights
) -> list[float]:
    """One weight per token; `imitated` has one flag per step."""
    if len(imitated) != len(trajectory.steps):
        raise ValueError(
            f"imitated: expected one per step ({len(trajectory.steps)}), got {len(imitated)}"
        )
    found = [weights.of(role) for role in trajectory.roles]
    for step, wanted in zip(trajectory.steps, imitated, strict=True):
        if not wanted:
            found[step.start : step.end] = [0.0] * (step.end - step.start)
    return found
