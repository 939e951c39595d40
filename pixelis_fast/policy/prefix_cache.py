"""Beginnings of earlier sessions: what a new one has in common with them is not computed again.

Found by longest common prefix over tokens and pictures (content id, frame and grid), among
beginnings of the same weights and the same salt. A common prefix that ends inside a vision span is
cut back to the span's start. Entries share memory with the sessions they came from; nothing is
copied. Knows no forward.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pixelis_fast.policy.chunk import Chunk
from pixelis_fast.policy.segments import Segment, cut_segments, held_bytes

MIN_TOKENS = 16
"""A shorter common prefix is computed again: a segment costs each later forward a call."""


class Owner(NamedTuple):
    """Who may use a beginning."""

    version: str
    salt: str
    """A tenant."""
    stamp: int
    """Of the weights: sees an update in place without a publish."""


@dataclass
class Entry:
    """One beginning."""

    chunk: Chunk
    atoms_N: np.ndarray
    segments: tuple[Segment, ...]
    parts: dict[int, tuple[Segment, ...]] = field(default_factory=dict)
    """Its beginnings by length: sessions that hit the same one share its segments."""

    def part(self, length: int) -> tuple[Segment, ...]:
        if length not in self.parts:
            self.parts[length] = tuple(cut_segments(self.segments, length))
        return self.parts[length]

    def common(self, chunk: Chunk, atoms_N: np.ndarray) -> int:
        """Tokens that both begin with, no span cut."""
        length = chunk.whole_spans(common_length(atoms_N, self.atoms_N))
        # Atoms are short hashes: equal ones are believed only where the pictures are equal.
        for ours, theirs in zip(chunk.slots, self.chunk.slots, strict=False):
            if ours != theirs:
                return min(length, ours.offset, theirs.offset)
        return length


class PrefixCache:
    """Least recently used beginnings under a byte budget.

    Example:
        segments = prefixes.find(Owner("v1", "tenant", stamp), chunk)
    """

    def __init__(self, *, byte_budget: int) -> None:
        if byte_budget < 0:
            raise ValueError(f"byte_budget: expected >= 0, got {byte_budget}")
        self._byte_budget = byte_budget
        self._entries: OrderedDict[int, tuple[Owner, Entry]] = OrderedDict()
        self._next_key = 0
        self.hits = 0
        self.misses = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the memory that entries keep alive, shared with sessions or not."""
        entries = [entry for _, entry in self._entries.values()]
        tensors = held_bytes(segment.tensor for entry in entries for segment in entry.segments)
        return tensors + sum(TOKEN_BYTES * len(entry.atoms_N) for entry in entries)

    def find(self, owner: Owner, chunk: Chunk, *, longer_than: int = 0) -> tuple[Segment, ...]:
        """Segments of the longest beginning of the chunk that was kept for `owner`, or none.

        At least one token of the chunk is left to compute.
        """
        key, length = self._longest(owner, chunk)
        if key is None or length <= longer_than:
            return ()
        self._entries.move_to_end(key)
        return self._entries[key][1].part(length)

    def longest(self, owner: Owner, chunk: Chunk) -> int:
        """How many of the chunk's first tokens `find` would supply now."""
        return self._longest(owner, chunk)[1]

    def _longest(self, owner: Owner, chunk: Chunk) -> tuple[int | None, int]:
        """The entry with the longest beginning, and its length; None and 0 where all are short."""
        lengths = self._common_lengths(owner, chunk, atoms(chunk))
        key = max(lengths, key=lengths.__getitem__, default=None)
        if key is None:
            return None, 0
        length = chunk.whole_spans(min(lengths[key], len(chunk.ids) - 1))
        return (key, length) if length >= MIN_TOKENS else (None, 0)

    def keep(self, owner: Owner, chunk: Chunk, segments: Sequence[Segment]) -> None:
        """Remembers a beginning in place of those that it continues."""
        if not segments or held_bytes(s.tensor for s in segments) > self._byte_budget:
            return
        new = Entry(chunk, atoms(chunk), tuple(segments))
        for key, length in self._common_lengths(owner, chunk, new.atoms_N).items():
            if length == len(chunk.ids):
                self._entries.move_to_end(key)
                return
            if length == len(self._entries[key][1].atoms_N):
                del self._entries[key]
        self._next_key += 1
        self._entries[self._next_key] = owner, new
        while self.nbytes > self._byte_budget:
            self._entries.popitem(last=False)

    def retain(self, versions: Collection[str]) -> None:
        """Forgets what was kept for other versions."""
        for key, (owner, _) in list(self._entries.items()):
            if owner.version not in versions:
                del self._entries[key]

    def clear(self) -> None:
        self._entries.clear()

    def _common_lengths(self, owner: Owner, chunk: Chunk, atoms_N: np.ndarray) -> dict[int, int]:
        return {
            key: entry.common(chunk, atoms_N)
            for key, (its_owner, entry) in self._entries.items()
            if its_owner == owner
        }


def atoms(chunk: Chunk) -> np.ndarray:
    """One int64 per token: its id, or a negative hash of the picture that it shows."""
    atoms_N = np.array(chunk.ids, dtype=np.int64)
    for slot in chunk.slots:
        picture = f"{slot.media_id} {slot.frame} {slot.grid_thw}".encode()
        digest = hashlib.blake2b(picture, digest_size=8).digest()
        atoms_N[slot.offset : slot.end] = -1 - (int.from_bytes(digest, "little") >> 1)
    return atoms_N


def common_length(one_N: np.ndarray, other_N: np.ndarray) -> int:
    """Leading entries that agree."""
    shorter = min(len(one_N), len(other_N))
    differ = one_N[:shorter] != other_N[:shorter]
    return int(differ.argmax()) if differ.any() else shorter


TOKEN_BYTES = 48
"""Of an entry's token beside its keys and values: an int, its place in a list, its atom."""
