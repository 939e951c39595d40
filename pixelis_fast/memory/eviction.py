"""Which experiences leave when a limit is reached: the least valuable, deterministically.

    value = success · s + visfid · f + confidence · c + 2^(-age / half life) · r - redundancy · d

Age counts from the tenant's newest experience, not from a clock. Redundancy is the similarity to
the nearest other experience (its twin); when a twin leaves, the other's redundancy is looked up
again among those that stay, so of two equal ones only one goes for being a double.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from pixelis_fast.memory.config import MemoryConfig, Worth
from pixelis_fast.memory.experience import Evicted

Twin = tuple[int | None, float]
"""Number of the nearest other, and the similarity to it; (None, 0) for the only one."""
FindTwin = Callable[[int, Collection[int]], Twin]
"""(number, those that leave) -> its nearest among the others."""


@dataclass(frozen=True)
class Candidate:
    """What an experience's value is made of."""

    number: int
    id: str
    success: float
    visfid: float
    confidence: float
    created_s: float
    bytes: int
    redundancy: float
    twin: int | None


@dataclass(frozen=True)
class Need:
    """How much must be free.

    Example:
        Need(count=1, bytes=48_000)
    """

    count: int
    bytes: int


@dataclass(frozen=True)
class Leaving:
    """Who leaves, and the redundancies that were looked up again on the way."""

    evicted: tuple[Evicted, ...]
    twins: dict[int, Twin]


def value_of(candidate: Candidate, worth: Worth, *, newest_s: float) -> float:
    recency = 2.0 ** (-(newest_s - candidate.created_s) / worth.half_life_s)
    return (
        worth.success * candidate.success
        + worth.fidelity * candidate.visfid
        + worth.confidence * candidate.confidence
        + worth.recency * recency
        - worth.redundancy * max(candidate.redundancy, 0.0)
    )


def reached_limit(count: int, size: int, need: Need, config: MemoryConfig) -> str | None:
    """ "count" or "bytes" where the need does not fit beside what is there."""
    if count + need.count > config.max_experiences:
        return "count"
    return "bytes" if size + need.bytes > config.max_bytes else None


def choose_leaving(
    tenant: str, candidates: Sequence[Candidate], need: Need, config: MemoryConfig, find: FindTwin
) -> Leaving:
    """The least valuable, one after the other, until need and slack fit."""
    queue = _Queue(candidates, config.worth)
    count, size = len(candidates), sum(each.bytes for each in candidates)
    reason, evicted = reached_limit(count, size, need, config), list[Evicted]()
    roomy = _with_slack(need, config)
    while candidates and count and reached_limit(count, size, roomy, config):
        value, leaving = queue.pop(find)
        count, size = count - 1, size - leaving.bytes
        evicted.append(Evicted(tenant, leaving.id, leaving.number, value, str(reason)))
    return Leaving(tuple(evicted), queue.twins)


def _with_slack(need: Need, config: MemoryConfig) -> Need:
    return Need(
        need.count + int(config.slack * config.max_experiences),
        need.bytes + int(config.slack * config.max_bytes),
    )


class _Queue:
    """Candidates by value, lowest first, equal ones by number."""

    def __init__(self, candidates: Sequence[Candidate], worth: Worth) -> None:
        self._worth = worth
        self._newest_s = max((each.created_s for each in candidates), default=0.0)
        self._waiting = {each.number: each for each in candidates}
        self._heap = [(self._value(each), each.number) for each in candidates]
        heapq.heapify(self._heap)
        self._gone: set[int] = set()
        self.twins: dict[int, Twin] = {}

    def pop(self, find: FindTwin) -> tuple[float, Candidate]:
        """A candidate whose twin has left is valued again first: it can only have gained."""
        while True:
            value, number = heapq.heappop(self._heap)
            candidate = self._waiting[number]
            if candidate.twin is None or self._stays(candidate.twin):
                self._gone.add(number)
                self.twins.pop(number, None)
                return value, candidate
            self._renew(candidate, find)

    def _stays(self, number: int) -> bool:
        """A twin may also have left in an earlier eviction."""
        return number in self._waiting and number not in self._gone

    def _renew(self, candidate: Candidate, find: FindTwin) -> None:
        twin, redundancy = find(candidate.number, self._gone)
        self.twins[candidate.number] = (twin, redundancy)
        renewed = replace(candidate, twin=twin, redundancy=redundancy)
        self._waiting[candidate.number] = renewed
        heapq.heappush(self._heap, (self._value(renewed), candidate.number))

    def _value(self, candidate: Candidate) -> float:
        return value_of(candidate, self._worth, newest_s=self._newest_s)
