"""Settings of the vote, its ablations among them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class VoteKind(Enum):
    """What a trajectory's weight is made of."""

    TRAJECTORY = "trajectory"
    """Fidelity, length, and behaviour beside that of neighbours."""
    NO_RETRIEVAL = "no_retrieval"
    """Fidelity and length."""
    MAJORITY = "majority"
    """One each: answers are counted."""


@dataclass(frozen=True)
class VotingConfig:
    """How trajectories are weighed and when the vote abstains.

    Example:
        VotingConfig(kind=VoteKind.MAJORITY, gate=0.5)
    """

    kind: VoteKind = VoteKind.TRAJECTORY
    gate: float = 0.3
    """Below this confidence the vote abstains: nothing is learned from the query."""
    free_steps: int = 3
    """Calls that cost nothing (T0 of the length prior)."""
    length_rate: float = 0.5
    """The prior is exp(-rate · max(0, T - T0) / T0)."""
    neighbour_prior: float = 0.25
    """A neighbour that is like every trajectory, always there: without others all count the
    same, and no set of neighbours can outweigh fidelity and length without bound. 0 is the bare
    sum."""
    operation_share: float = 0.5
    """What two calls of one operation share wherever they point; the rest is their footprint's."""
    fidelity_slack: float = 0.1
    """An exemplar's fidelity is at most this far below the best of the winning cluster."""

    def __post_init__(self) -> None:
        for name in ("gate", "operation_share", "fidelity_slack"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected 0 to 1, got {getattr(self, name)}")
        if self.free_steps < 1:
            raise ValueError(f"free_steps: expected at least 1, got {self.free_steps}")
        for name in ("length_rate", "neighbour_prior"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")
