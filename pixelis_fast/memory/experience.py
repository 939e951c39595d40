"""What the memory holds: one finished query with its trajectory, key, outcome and origin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from pixelis_fast.memory.key import MemoryKey
from pixelis_fast.types import Trajectory


class Source(Enum):
    """Who vouches for an outcome."""

    USER = "user"
    TTRL = "ttrl"
    """The vote of the policy's own trajectories."""


@dataclass(frozen=True)
class Outcome:
    """How the query ended.

    Example:
        Outcome(answer="24", confidence=0.8, success=1.0)
    """

    answer: str | None
    confidence: float
    """0..1, of the vote or the user."""
    success: float
    """0..1: what a later vote counts this experience for."""


@dataclass(frozen=True)
class Provenance:
    """Where an experience comes from.

    Example:
        Provenance(policy_version="sft-3#update-17", created_s=1.7e9, source=Source.TTRL)
    """

    policy_version: str
    created_s: float
    """Seconds since 1970."""
    source: Source


@dataclass(frozen=True)
class Experience:
    """One remembered query.

    Example:
        Experience(id="coins-1", tenant="lab", sample_id="coins-1", question="How many coins?",
                   trajectory=trajectory, key=key, outcome=outcome, visfid=0.9,
                   provenance=provenance)
    """

    id: str
    """The caller's own, unique in its tenant; says after a crash whether an add had arrived."""
    tenant: str
    sample_id: str
    question: str
    trajectory: Trajectory
    key: MemoryKey
    outcome: Outcome
    visfid: float
    """Visual fidelity of the trajectory, 0..1."""
    provenance: Provenance


@dataclass(frozen=True)
class Neighbour:
    """What a search found.

    Example:
        Neighbour(experience, similarity=0.83)
    """

    experience: Experience
    similarity: float
    """Hybrid, -1..1."""


@dataclass(frozen=True)
class Evicted:
    """What had to go, and why.

    Example:
        Evicted(tenant="lab", id="coins-1", number=3, value=0.21, reason="count")
    """

    tenant: str
    id: str
    number: int
    value: float
    reason: str
    """The limit that was reached: "count" or "bytes"."""


def check_experience(experience: Experience) -> None:
    """What a key must be is the memory's to check: it knows the dimensions."""
    if not experience.id:
        raise ValueError("id: expected some text, got none")
    outcome = experience.outcome
    shares = {
        "confidence": outcome.confidence,
        "success": outcome.success,
        "visfid": experience.visfid,
    }
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name}: expected a number from 0 to 1, got {share}")
    if not math.isfinite(experience.provenance.created_s):
        created = experience.provenance.created_s
        raise ValueError(f"created_s: expected a finite number, got {created}")


def check_batch(experiences: Sequence[Experience]) -> None:
    """One tenant, and no id twice."""
    for experience in experiences:
        check_experience(experience)
    tenants = sorted({each.tenant for each in experiences})
    if len(tenants) != 1:
        raise ValueError(f"experiences: expected some of one tenant, got tenants {tenants}")
    ids = [each.id for each in experiences]
    if twice := sorted({each for each in ids if ids.count(each) > 1}):
        raise ValueError(f"experiences: expected each id once, got {twice[0]} twice")
