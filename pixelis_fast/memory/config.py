"""Settings of a memory: dimensions, limits, what an experience is worth."""

from __future__ import annotations

from dataclasses import dataclass, field

from pixelis_fast.memory.key import HybridWeights

TEXT_DIMENSION = 256


@dataclass(frozen=True)
class Worth:
    """Weights of an experience's value; the lowest value leaves first.

    value = success + fidelity + confidence + recency - redundancy, each weighted: see
    eviction.py.

    Example:
        Worth(redundancy=2.0)
    """

    success: float = 1.0
    fidelity: float = 1.0
    confidence: float = 0.5
    recency: float = 0.5
    redundancy: float = 1.0
    """0: doubles are not looked for, which an add otherwise spends one search on."""
    half_life_s: float = 7 * 86_400.0
    """Recency halves in this time before the tenant's newest experience."""

    def __post_init__(self) -> None:
        if self.half_life_s <= 0:
            raise ValueError(f"half_life_s: expected more than 0, got {self.half_life_s}")


@dataclass(frozen=True)
class MemoryConfig:
    """Settings of one memory; dimensions are fixed when its folder is made.

    Example:
        MemoryConfig(pixel_dimension=policy.config.text.hidden_size)
    """

    pixel_dimension: int
    text_dimension: int = TEXT_DIMENSION
    weights: HybridWeights = field(default_factory=HybridWeights)
    max_experiences: int = 10_000
    """Per tenant."""
    max_bytes: int = 1 << 30
    """Per tenant: texts, trajectories and embeddings as stored."""
    slack: float = 0.02
    """Share of both limits that one eviction makes free, so that not every add evicts."""
    shared_tenants: tuple[str, ...] = ()
    """Tenants whose experiences every tenant finds; none sees another's without this."""
    worth: Worth = field(default_factory=Worth)
    open_indexes: int = 64
    """Tenants whose vectors are held in memory; others are read again when asked for."""
    open_index_bytes: int = 1 << 30
    """Of those vectors: whoever was asked for longest ago is closed first. The tenant that is being
    asked for is held whatever its size."""

    def __post_init__(self) -> None:
        counts = ("pixel_dimension", "text_dimension", "max_experiences", "max_bytes")
        for name in (*counts, "open_indexes", "open_index_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not 0 <= self.slack < 1:
            raise ValueError(f"slack: expected from 0 to below 1, got {self.slack}")

    @property
    def dimension(self) -> int:
        return self.text_dimension + self.pixel_dimension
