"""The tenants' indexes: each follows the truth before it answers, or is built again."""

from __future__ import annotations

from collections import OrderedDict, deque
from pathlib import Path

import numpy as np

from pixelis_fast.memory.config import MemoryConfig
from pixelis_fast.memory.errors import MemoryDamagedError
from pixelis_fast.memory.index import Stamp, TenantIndex
from pixelis_fast.memory.index_file import index_path, load_index, save_index
from pixelis_fast.memory.key import hybrid_vectors
from pixelis_fast.memory.truth import Totals, Truth, Vectors

NOTES = 64


class Indexes:
    """Few are held, in few bytes; the one asked for longest ago goes first.

    However many tenants a folder has, what is held of them does not grow: truth and index file are
    on the disk, and the next question opens them again.
    """

    def __init__(self, truth: Truth, folder: Path, config: MemoryConfig, *, saves: bool) -> None:
        self._truth, self._folder, self._config = truth, folder, config
        self._saves = saves
        self._open: OrderedDict[str, TenantIndex] = OrderedDict()
        self._on_disk: dict[str, Stamp] = {}
        """Of open ones."""
        self.notes: deque[str] = deque(maxlen=NOTES)
        """The newest saves that failed: a cache that is missing costs time, not experiences."""

    def of(self, tenant: str) -> TenantIndex:
        """Equal to the truth of this moment."""
        totals = self._truth.totals(tenant)
        index = self._open.get(tenant)
        if index is None:
            index = self._from_disk(tenant, stamp_of(totals))
        if index.stamp != stamp_of(totals):
            index = self._followed(tenant, index, totals)
        self._open[tenant] = index
        self._open.move_to_end(tenant)
        while len(self._open) > 1 and self._is_full():
            self._close(*self._open.popitem(last=False))
        return index

    @property
    def num_open(self) -> int:
        return len(self._open)

    @property
    def nbytes(self) -> int:
        """Of all that are open."""
        return sum(index.nbytes for index in self._open.values())

    def rebuilt(self, tenant: str) -> TenantIndex:
        """From the truth alone."""
        index = TenantIndex(self._config.dimension)
        self._catch_up(tenant, index, self._truth.totals(tenant))
        return index

    def save_all(self) -> None:
        for tenant, index in self._open.items():
            self._save(tenant, index)

    def _is_full(self) -> bool:
        config = self._config
        return self.num_open > config.open_indexes or self.nbytes > config.open_index_bytes

    def _close(self, tenant: str, index: TenantIndex) -> None:
        self._save(tenant, index)
        self._on_disk.pop(tenant, None)

    def _from_disk(self, tenant: str, stamp: Stamp) -> TenantIndex:
        path = index_path(self._folder, tenant)
        index = load_index(path, tenant, self._config, stamp)
        if index is None:
            return TenantIndex(self._config.dimension)
        self._on_disk[tenant] = stamp
        return index

    def _followed(self, tenant: str, index: TenantIndex, totals: Totals) -> TenantIndex:
        self._catch_up(tenant, index, totals)
        if index.stamp == stamp_of(totals):
            return index
        index = self.rebuilt(tenant)
        if index.stamp != stamp_of(totals):
            raise MemoryDamagedError(
                f"memory {self._folder}: expected {totals} of {tenant}, got rows for {index.stamp}"
            )
        return index

    def _catch_up(self, tenant: str, index: TenantIndex, totals: Totals) -> None:
        """Takes what was stored and drops what left since the index's stamp."""
        known = index.stamp
        left = self._truth.evicted_after(tenant, known.last_eviction)
        held = [pair for pair in left if pair[0] <= known.last_number]
        index.remove([number for number, _ in held], [mark for _, mark in held])
        sizes = (self._config.text_dimension, self._config.pixel_dimension)
        vectors = self._truth.vectors_after(tenant, known.last_number, sizes)
        index.add(vectors.numbers_N, vectors.digests, self._hybrid(vectors))
        index.stamp = Stamp(
            index.stamp.count, totals.last_number, totals.last_eviction, index.stamp.checksum
        )

    def _hybrid(self, vectors: Vectors) -> np.ndarray:
        return hybrid_vectors(vectors.texts_NT, vectors.pixels_NP, self._config.weights)

    def _save(self, tenant: str, index: TenantIndex) -> None:
        if not self._saves or self._on_disk.get(tenant, Stamp()) == index.stamp:
            return
        try:
            save_index(index_path(self._folder, tenant), index, tenant, self._config)
        except OSError as error:
            self.notes.append(f"index of {tenant} not saved, the next start builds it: {error}")
            return
        self._on_disk[tenant] = index.stamp


def stamp_of(totals: Totals) -> Stamp:
    return Stamp(totals.count, totals.last_number, totals.last_eviction, totals.checksum)
