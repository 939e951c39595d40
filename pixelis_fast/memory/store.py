"""The experience memory: add, find the nearest, evict; one writer, many readers, tenants apart.

The truth is SQLite (truth.py), found by faiss (index.py). An `add` that returned is on the disk.
Any thread may call; a reader in another process follows the writer at its next search.

    with ExperienceMemory(folder, MemoryConfig(pixel_dimension=256)) as memory:
        memory.add(experience)
        neighbours = memory.nearest(key, k=8, tenant="lab")
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from pixelis_fast.memory.config import MemoryConfig
from pixelis_fast.memory.experience import Evicted, Experience, Neighbour, check_batch
from pixelis_fast.memory.index import TenantIndex
from pixelis_fast.memory.indexes import Indexes
from pixelis_fast.memory.key import MemoryKey, check_key, hybrid_vector
from pixelis_fast.memory.opening import close_truth, open_truth
from pixelis_fast.memory.truth import Totals
from pixelis_fast.memory.verify import Verdict, verify
from pixelis_fast.memory.writing import Addition

LOG = logging.getLogger(__name__)


class ExperienceMemory:
    """One folder of experiences.

    Example:
        memory = ExperienceMemory(Path("memory"), MemoryConfig(pixel_dimension=256))
    """

    def __init__(self, folder: Path, config: MemoryConfig, *, read_only: bool = False) -> None:
        self.folder, self.config, self.read_only = folder, config, read_only
        self._opened = open_truth(folder, config, read_only=read_only)
        self._truth = self._opened.truth
        self._indexes = Indexes(self._truth, folder, config, saves=not read_only)
        self._turn = threading.RLock()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of logs must know: what a crash cost, an index that could not be saved."""
        return self._opened.notes + tuple(self._indexes.notes)

    def add(self, experience: Experience) -> tuple[Evicted, ...]:
        """Stores one durably; what had to leave for it. An id that is there already is refused."""
        return self.add_many([experience])

    def add_many(self, experiences: Sequence[Experience]) -> tuple[Evicted, ...]:
        """Some of one tenant: all are stored, or none and an error."""
        if self.read_only:
            raise ValueError(f"memory {self.folder}: expected a writer, got one opened read-only")
        check_batch(experiences)
        for experience in experiences:
            self._check_key(experience.key)
        with self._turn:
            addition = Addition(self._truth, self._index(experiences[0].tenant), self.config)
            evicted = addition.store(experiences)
            self._index(experiences[0].tenant)
        for each in evicted:
            LOG.info(
                "evicted %s of %s for %s, value %.4f", each.id, each.tenant, each.reason, each.value
            )
        return evicted

    def nearest(self, key: MemoryKey, k: int, tenant: str) -> list[Neighbour]:
        """The k most similar of the tenant and of shared tenants; equal ones oldest first."""
        self._check_key(key)
        if k < 1:
            raise ValueError(f"k: expected at least 1, got {k}")
        vector_D = hybrid_vector(key, self.config.weights)
        with self._turn, self._truth.reading():
            seen = dict.fromkeys((tenant, *self.config.shared_tenants))
            found = [pair for name in seen for pair in self._index(name).search(vector_D, k)]
            found = sorted(found, key=lambda pair: (-pair[1], pair[0]))[:k]
            experiences = self._truth.experiences([number for number, _ in found])
        return [Neighbour(experiences[number], similarity) for number, similarity in found]

    def __contains__(self, tenant_and_id: tuple[str, str]) -> bool:
        """`("lab", "coins-1") in memory`: did that add arrive?"""
        with self._turn:
            return self._truth.has(*tenant_and_id)

    def ids(self, tenant: str) -> list[str]:
        """Oldest first."""
        with self._turn:
            return self._truth.ids(tenant)

    def tenants(self) -> list[str]:
        with self._turn:
            return self._truth.tenants()

    def totals(self, tenant: str) -> Totals:
        with self._turn:
            return self._truth.totals(tenant)

    def evictions(self, tenant: str) -> list[Evicted]:
        """The log, oldest first."""
        with self._turn:
            return self._truth.evictions(tenant)

    def verify(self) -> Verdict:
        """Reads everything and holds totals and indexes against it."""
        with self._turn, self._truth.reading():
            return verify(self._truth, self._indexes, self.config)

    def close(self) -> None:
        """Saves the indexes; the truth needs no saving."""
        with self._turn:
            self._indexes.save_all()
            close_truth(self._opened)

    def __enter__(self) -> ExperienceMemory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check_key(self, key: MemoryKey) -> None:
        check_key(
            key,
            text_dimension=self.config.text_dimension,
            pixel_dimension=self.config.pixel_dimension,
        )

    def _index(self, tenant: str) -> TenantIndex:
        return self._indexes.of(tenant)
