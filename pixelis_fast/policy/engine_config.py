"""The engine's switches, what it counts, and the error that asks a caller to make room."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineConfig:
    """Every switch that is off gives the same tokens, later.

    Example:
        EngineConfig(kv_bytes=8 << 30, prefill_chunk=512)
    """

    keep_kv: bool = True
    """False prefills the whole history at each turn: the habit this engine replaces."""
    vision_cache_bytes: int = 1 << 30
    """Budget of encoded pictures; 0 encodes at every showing."""
    prefix_cache_bytes: int = 1 << 28
    """Budget of beginnings kept for later sessions; 0 computes each."""
    kv_bytes: int | None = None
    """Budget of the open sessions' keys and values on the device; None: no limit."""
    share_prefix: bool = True
    """Forks and prefix hits share memory and attention; False copies."""
    batch_invariant: bool = False
    """A session's bits do not depend on what runs beside it; the cost is in policy/invariant.py."""
    packed_weights: bool = True
    """On a CPU in fp32: a second copy of the matrices in MKL's layout (policy/packed.py)."""
    static_decode: bool = False
    """Single tokens run in buffers of their own, on CUDA as recorded graphs; kv_bytes does not
    count them. On a CPU it only costs (policy/static_decode.py). A forward of sessions of several
    versions runs without it."""
    merged_bytes: int = 1 << 26
    """Budget of published versions' own matrices, in fp32 (policy/merged.py); a version without
    is corrected layer by layer, in each forward."""
    prefill_chunk: int | None = None
    """A longer chunk runs as several forwards of up to so many tokens each; None: in one."""
    keep_versions: int = 8
    """Published adapter banks that a rollback can reach."""

    def __post_init__(self) -> None:
        for name in ("vision_cache_bytes", "prefix_cache_bytes", "merged_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected >= 0, got {getattr(self, name)}")
        for name in ("kv_bytes", "prefill_chunk", "keep_versions"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}: expected >= 1 or None, got {getattr(self, name)}")
        if self.batch_invariant and self.share_prefix:
            raise ValueError(
                "share_prefix: expected False with batch_invariant=True, got True "
                "(attention in two parts has other bits than in one)"
            )
        if self.batch_invariant and self.static_decode:
            raise ValueError("static_decode: expected False with batch_invariant=True, got True")


class KVBudgetError(RuntimeError):
    """The open sessions leave too little of kv_bytes; raised before anything changed.

    Evict or close a session and call again.
    """

    def __init__(self, needed: int, free: int) -> None:
        super().__init__(f"kv_bytes: expected {needed} bytes free, got {free}")
        self.needed, self.free = needed, free


@dataclass(frozen=True)
class EngineStats:
    """What the engine holds, and what it has done since it was made."""

    sessions: int
    """Open ones, evicted ones included."""
    evicted_sessions: int
    kv_bytes: int
    """Held on the device by open sessions; what they share is counted once."""
    host_bytes: int
    """Held by evicted sessions."""
    prefix_bytes: int
    vision_bytes: int
    prefix_hits: int
    prefix_misses: int
    vision_hits: int
    vision_misses: int
    evictions: int
    resumes: int
    forks: int
    publishes: int
    tokens_prefilled: int
    """Computed in chunks that open a turn."""
    tokens_decoded: int
    """Computed in chunks of generated tokens."""
    tokens_shared: int
    """Not computed: a fork or a prefix hit supplied them."""


@dataclass
class Counters:
    """The running part of EngineStats."""

    evictions: int = 0
    resumes: int = 0
    forks: int = 0
    publishes: int = 0
    tokens_prefilled: int = 0
    tokens_decoded: int = 0
    tokens_shared: int = 0
