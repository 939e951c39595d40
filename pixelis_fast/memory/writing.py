"""One addition: make room, insert, keep the redundancies true; a single transaction.

Shapes: N = experiences of the addition, D = hybrid dimension.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from pixelis_fast.memory.config import MemoryConfig
from pixelis_fast.memory.eviction import (
    Candidate,
    Leaving,
    Need,
    Twin,
    choose_leaving,
    reached_limit,
)
from pixelis_fast.memory.experience import Evicted, Experience
from pixelis_fast.memory.index import Found, TenantIndex
from pixelis_fast.memory.key import hybrid_vector, hybrid_vectors
from pixelis_fast.memory.rows import stored_bytes, trajectory_body
from pixelis_fast.memory.truth import Truth

TWINS = 8
"""Nearest others whose redundancy a new experience can raise."""


class Addition:
    """Stores experiences of one tenant beside those that `index` holds."""

    def __init__(self, truth: Truth, index: TenantIndex, config: MemoryConfig) -> None:
        self._truth, self._index, self._config = truth, index, config

    def store(self, experiences: Sequence[Experience]) -> tuple[Evicted, ...]:
        tenant = experiences[0].tenant
        bodies = [trajectory_body(each.trajectory) for each in experiences]
        sizes = [stored_bytes(e, body) for e, body in zip(experiences, bodies, strict=True)]
        need = Need(len(experiences), sum(sizes))
        self._check(experiences, need)
        vectors_ND = np.stack([hybrid_vector(e.key, self._config.weights) for e in experiences])
        what = f"{need.count} experiences of {need.bytes} bytes"
        with self._truth.writing(what):
            leaving = self._make_room(tenant, need)
            numbers = [
                self._truth.insert(*each) for each in zip(experiences, bodies, sizes, strict=True)
            ]
            if self._config.worth.redundancy:
                gone = {each.number for each in leaving.evicted}
                self._note_twins(numbers, vectors_ND, gone)
        return leaving.evicted

    def _check(self, experiences: Sequence[Experience], need: Need) -> None:
        if limit := reached_limit(0, 0, need, self._config):
            most = {"count": self._config.max_experiences, "bytes": self._config.max_bytes}
            raise ValueError(
                f"experiences: expected at most {most[limit]} {limit} at once, "
                f"got {need.count} with {need.bytes} bytes"
            )
        for each in experiences:
            if self._truth.has(each.tenant, each.id):
                raise ValueError(f"id: expected a new one in {each.tenant}, got {each.id} again")

    def _make_room(self, tenant: str, need: Need) -> Leaving:
        totals = self._truth.totals(tenant)
        if reached_limit(totals.count, totals.bytes, need, self._config) is None:
            return Leaving((), {})
        rows = self._truth.rows(
            "SELECT number, id, success, visfid, confidence, created_s, bytes, redundancy, twin "
            "FROM experiences WHERE tenant = ? ORDER BY number",
            tenant,
        )
        candidates = [Candidate(*row) for row in rows]
        leaving = choose_leaving(tenant, candidates, need, self._config, self._find_twin)
        for evicted in leaving.evicted:
            self._truth.remove(evicted)
        for number, (twin, redundancy) in leaving.twins.items():
            self._set_twin(number, twin, redundancy)
        return leaving

    def _find_twin(self, number: int, gone: Collection[int]) -> Twin:
        sizes = (self._config.text_dimension, self._config.pixel_dimension)
        row = self._truth.vectors_of([number], sizes)
        vector_D = hybrid_vectors(row.texts_NT, row.pixels_NP, self._config.weights)[0]
        found = self._index.search(vector_D, 1, without={*gone, number})
        return found[0] if found else (None, 0.0)

    def _note_twins(
        self, numbers: Sequence[int], vectors_ND: np.ndarray, gone: Collection[int]
    ) -> None:
        for place, number in enumerate(numbers):
            near = self._near(numbers, vectors_ND, place, gone)
            if near:
                self._set_twin(number, *near[0])
            for other, similarity in near:
                self._truth.rows(
                    "UPDATE experiences SET redundancy = ?, twin = ? "
                    "WHERE number = ? AND (twin IS NULL OR redundancy < ?)",
                    similarity,
                    number,
                    other,
                    similarity,
                )

    def _near(
        self, numbers: Sequence[int], vectors_ND: np.ndarray, place: int, gone: Collection[int]
    ) -> list[Found]:
        """Among those that stay and those that were added before it in this addition."""
        found = self._index.search(vectors_ND[place], TWINS, without=gone)
        beside = (vectors_ND[:place] @ vectors_ND[place]).tolist()
        found += list(zip(numbers[:place], beside, strict=True))
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))[:TWINS]

    def _set_twin(self, number: int, twin: int | None, redundancy: float) -> None:
        self._truth.rows(
            "UPDATE experiences SET redundancy = ?, twin = ? WHERE number = ?",
            redundancy,
            twin,
            number,
        )
