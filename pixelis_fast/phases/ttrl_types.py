"""Pixel test-time RL: its settings, its events, and what it asks of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, Protocol

from pixelis_fast.corridor import CanaryGate, CorridorConfig
from pixelis_fast.memory import Experience, MemoryKey, Neighbour
from pixelis_fast.policy.published import Published
from pixelis_fast.types import Sample, Trajectory
from pixelis_fast.voting import VotingConfig


class TtrlStatus(Enum):
    """What became of a query."""

    READ_ONLY = "read_only"
    """Answered; the learner does not learn."""
    ABSTAINED = "abstained"
    """Answered below the gate's confidence: remembered, not learned from."""
    OVER_BUDGET = "over_budget"
    """Its tenant has had its updates."""
    WAITING = "waiting"
    """Part of an update that waits for more queries."""
    STALE = "stale"
    """The group's log-probabilities are not those of the bank that learns: what was published is
    not what spoke. Nothing changed."""
    SKIPPED = "skipped"
    """The gradient was not finite; nothing changed."""
    DROPPED = "dropped"
    """The corridor let no part of the update through; nothing changed."""
    REFUSED = "refused"
    """The canary had become worse; nothing changed."""
    PUBLISHED = "published"


@dataclass(frozen=True)
class TtrlConfig:
    """All that decides what is learned from a stream of queries.

    Example:
        TtrlConfig(out="runs/ttrl", group=8, learning_rate=1e-3)
    """

    out: str
    """Folder of snapshots, memory and audit log; an old one is gone on with."""
    group: int = 8
    """Trajectories per query."""
    temperature: float = 1.0
    neighbours: int = 8
    voting: VotingConfig = field(default_factory=VotingConfig)
    """VoteKind.MAJORITY and NO_RETRIEVAL are the ablations."""
    retrieval: bool = True
    """False asks the memory for nothing."""
    queries_per_update: int = 1
    rank: int = 8
    alpha: float = 16.0
    learning_rate: float = 1e-3
    max_norm: float = 1.0
    clip: tuple[float, float] = (0.2, 0.28)
    imitation_weight: float = 0.3
    """Of the exemplars, beside the policy gradient."""
    fidelity_share: float = 0.3
    """Of a pseudo-reward: how much of agreeing is owed to having looked."""
    invalid_weight: float = 0.5
    """Subtracted from a pseudo-reward per call that could not be run, as a share of its calls."""
    least_spread: float = 0.1
    """Advantages divide by no smaller a standard deviation of pseudo-rewards: a group that agrees
    differs by how well each looked, and that little must not weigh as much as right beside wrong.
    """
    ema_decay: float = 0.95
    corridor: CorridorConfig = field(default_factory=CorridorConfig)
    safety: bool = True
    """False, the ablation: no KL to the EMA, no corridor; drift is still measured and logged."""
    probe_trajectories: int = 4
    """Of earlier queries, measured beside the update's own."""
    canary: CanaryGate = field(default_factory=CanaryGate)
    recompute: bool = False
    """Layers run again in the backward: less memory, more time."""
    lessons_per_tenant: int | None = None
    """Queries of one tenant in all that were learned from, or tried to be; None: no limit."""
    read_only: bool = False
    """Answer and vote; learn and remember nothing."""
    snapshot_every: int = 1
    """Updates between snapshots. A crash costs what was learned after the last one, and no answer:
    with 1, nothing."""
    keep_snapshots: int = 8
    """On disk, one for each version that was served: what `rollback` reaches after a restart. Each
    has a bank, its average and the optimizer's moments (four times a bank's size) and the probes.
    """
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("group", "neighbours", "queries_per_update", "rank", "snapshot_every")
        for name in (*counts, "keep_snapshots", "learning_rate", "max_norm", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected > 0, got {getattr(self, name)}")
        for name in ("ema_decay", "fidelity_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected 0 to 1, got {getattr(self, name)}")
        weights = ("imitation_weight", "invalid_weight", "least_spread")
        for name in (*weights, "probe_trajectories"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: expected a number >= 0, got {getattr(self, name)}")
        if self.group < 2:
            raise ValueError(f"group: expected at least 2 that can disagree, got {self.group}")

    def run_settings(self) -> dict[str, Any]:
        """What a run that goes on must share with the one before, as JSON reads it."""
        row = asdict(self)
        for name in ("out", "snapshot_every", "keep_snapshots", "read_only", "recompute"):
            row.pop(name)
        row["voting"]["kind"] = self.voting.kind.value
        return row


@dataclass(frozen=True)
class TtrlEvent:
    """One query, from its answer to what it changed; a line of the audit log.

    Example:
        event = learner.step(sample)
        print(event.answer, event.status.value, event.kl)
    """

    query: int
    sample_id: str
    tenant: str
    status: TtrlStatus
    reason: str
    answer: str | None
    """Of the vote, in its canonical spelling."""
    confidence: float
    num_answered: int
    """Trajectories of the group that came to an answer."""
    version: str
    """What serves after this query."""
    update: dict[str, Any] = field(default_factory=dict)
    """Losses, KL in both forms, beta, step, canary, fingerprint, pause; empty without an update."""
    answers: tuple[str | None, ...] = ()
    """Of all trajectories that were run; None where one came to none."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage; not part of what a repeated run must give again."""

    @property
    def kl(self) -> float | None:
        """Exact KL to the EMA of what was published, or of what was tried."""
        drift = self.update.get("drift")
        return None if drift is None else drift["exact"]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"status": self.status.value}


class RunGroup(Protocol):
    """Runs samples to trajectories under a version, or under what is served."""

    def __call__(
        self,
        samples: Sequence[Sample],
        *,
        seed: int,
        temperature: float,
        tenant: str = "",
        under: Published | None = None,
    ) -> list[Trajectory]: ...


class Remembers(Protocol):
    """The part of a memory that learning needs (ExperienceMemory has it)."""

    def add(self, experience: Experience) -> object: ...

    def nearest(self, key: MemoryKey, k: int, tenant: str) -> list[Neighbour]: ...

    def __contains__(self, tenant_and_id: tuple[str, str]) -> bool: ...


class MakesKeys(Protocol):
    def __call__(self, sample: Sample) -> MemoryKey: ...


class Judges(Protocol):
    """Label-free fidelity of a trajectory, 0 to 1."""

    def __call__(self, trajectory: Trajectory) -> float: ...
