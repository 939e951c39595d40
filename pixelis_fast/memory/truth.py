"""The truth of a memory: one SQLite file; an experience is stored when its commit is on the disk.

Per tenant it keeps totals in the same transactions, so that an index can be told from the truth
by three numbers. Knows no index and no limits.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pixelis_fast.memory.errors import MemoryStoreError
from pixelis_fast.memory.experience import Evicted, Experience
from pixelis_fast.memory.rows import (
    CHECKSUM_MODULUS,
    COLUMNS,
    columns_of,
    digest,
    experience_from_row,
)
from pixelis_fast.memory.sqlite_errors import told

LOGGED_EVICTIONS = 100_000
"""Of all tenants; a reader that fell behind further builds its index again."""


@dataclass(frozen=True)
class Totals:
    """What is known of one tenant's experiences without reading them."""

    count: int = 0
    bytes: int = 0
    last_number: int = 0
    """The highest ever given out."""
    last_eviction: int = 0
    checksum: int = 0
    """Sum of the digests, modulo CHECKSUM_MODULUS."""


@dataclass(frozen=True)
class Vectors:
    """Embeddings of some experiences, in order of their number."""

    numbers_N: np.ndarray
    digests: tuple[int, ...]
    texts_NT: np.ndarray
    pixels_NP: np.ndarray


class Truth:
    """The tables behind one connection; the caller sees to it that one thread uses it at a time."""

    def __init__(self, connection: sqlite3.Connection, folder: Path) -> None:
        self._connection, self._folder = connection, folder

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """One transaction: all of it is on the disk afterwards, or nothing and an error."""
        with told(self._folder, f"store {what}"):
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Everything read inside is of one moment, whatever a writer does meanwhile."""
        with told(self._folder, "read", kind=MemoryStoreError):
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("COMMIT")

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement, values).fetchall()

    def tenants(self) -> list[str]:
        return [tenant for (tenant,) in self.rows("SELECT tenant FROM totals ORDER BY tenant")]

    def totals(self, tenant: str) -> Totals:
        found = self.rows(
            "SELECT count, bytes, last_number, last_eviction, checksum FROM totals "
            "WHERE tenant = ?",
            tenant,
        )
        return Totals(*found[0]) if found else Totals()

    def has(self, tenant: str, id_: str) -> bool:
        statement = "SELECT 1 FROM experiences WHERE tenant = ? AND id = ?"
        return bool(self.rows(statement, tenant, id_))

    def ids(self, tenant: str) -> list[str]:
        """Oldest first."""
        statement = "SELECT id FROM experiences WHERE tenant = ? ORDER BY number"
        return [id_ for (id_,) in self.rows(statement, tenant)]

    def experiences(self, numbers: Sequence[int]) -> dict[int, Experience]:
        marks = ", ".join("?" * len(numbers))
        found = self.rows(
            f"SELECT number, {COLUMNS}, text, pixel, body FROM experiences "
            "JOIN embeddings USING (number) JOIN trajectories USING (number) "
            f"WHERE number IN ({marks})",
            *numbers,
        )
        return {row[0]: experience_from_row(row[1:]) for row in found}

    def vectors_after(self, tenant: str, number: int, dimensions: tuple[int, int]) -> Vectors:
        """Of the tenant's experiences with higher numbers."""
        found = self.rows(
            "SELECT number, digest, text, pixel FROM experiences JOIN embeddings USING (number) "
            "WHERE tenant = ? AND number > ? ORDER BY number",
            tenant,
            number,
        )
        return vectors_from(found, dimensions)

    def vectors_of(self, numbers: Sequence[int], dimensions: tuple[int, int]) -> Vectors:
        marks = ", ".join("?" * len(numbers))
        found = self.rows(
            "SELECT number, digest, text, pixel FROM embeddings "
            f"WHERE number IN ({marks}) ORDER BY number",
            *numbers,
        )
        return vectors_from(found, dimensions)

    def evicted_after(self, tenant: str, eviction: int) -> list[tuple[int, int]]:
        """(number, digest) of what left since."""
        statement = "SELECT number, digest FROM evictions WHERE tenant = ? AND eviction > ?"
        return [(number, mark) for number, mark in self.rows(statement, tenant, eviction)]

    def evictions(self, tenant: str) -> list[Evicted]:
        """The log, oldest first."""
        found = self.rows(
            "SELECT tenant, id, number, value, reason FROM evictions WHERE tenant = ? "
            "ORDER BY eviction",
            tenant,
        )
        return [Evicted(*row) for row in found]

    def insert(self, experience: Experience, body: str, size: int) -> int:
        """Its number; inside `writing`."""
        values = (*columns_of(experience), size, 0.0, None)
        marks = ", ".join("?" * len(values))
        cursor = self._connection.execute(
            f"INSERT INTO experiences ({COLUMNS}, bytes, redundancy, twin) VALUES ({marks})",
            values,
        )
        number = cursor.lastrowid
        assert number is not None, "an insert gives a number"
        text, pixel = experience.key.text_T.tobytes(), experience.key.pixel_P.tobytes()
        mark = digest(number, text, pixel)
        self.rows("INSERT INTO embeddings VALUES (?, ?, ?, ?)", number, mark, text, pixel)
        self.rows("INSERT INTO trajectories VALUES (?, ?)", number, body)
        self._move_totals(experience.tenant, 1, size, mark, last_number=number)
        return number

    def remove(self, evicted: Evicted) -> None:
        """Deletes one experience and logs it; inside `writing`."""
        [(size, mark)] = self.rows(
            "SELECT bytes, digest FROM experiences JOIN embeddings USING (number) WHERE number = ?",
            evicted.number,
        )
        for table in ("experiences", "embeddings", "trajectories"):
            self.rows(f"DELETE FROM {table} WHERE number = ?", evicted.number)
        cursor = self._connection.execute(
            "INSERT INTO evictions (tenant, id, number, digest, value, reason) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (evicted.tenant, evicted.id, evicted.number, mark, evicted.value, evicted.reason),
        )
        eviction = cursor.lastrowid
        assert eviction is not None, "an insert gives a number"
        self.rows("DELETE FROM evictions WHERE eviction <= ?", eviction - LOGGED_EVICTIONS)
        self._move_totals(evicted.tenant, -1, -size, -mark, last_eviction=eviction)

    def _move_totals(
        self,
        tenant: str,
        count: int,
        size: int,
        mark: int,
        *,
        last_number: int = 0,
        last_eviction: int = 0,
    ) -> None:
        old = self.totals(tenant)
        self.rows(
            "INSERT OR REPLACE INTO totals VALUES (?, ?, ?, ?, ?, ?)",
            tenant,
            old.count + count,
            old.bytes + size,
            max(old.last_number, last_number),
            max(old.last_eviction, last_eviction),
            (old.checksum + mark) % CHECKSUM_MODULUS,
        )


def vectors_from(rows: list[tuple[Any, ...]], dimensions: tuple[int, int]) -> Vectors:
    halves = [
        np.frombuffer(b"".join(row[column] for row in rows), np.float32).reshape(-1, dimension)
        for column, dimension in zip((2, 3), dimensions, strict=True)
    ]
    numbers_N = np.array([row[0] for row in rows], np.int64)
    return Vectors(numbers_N, tuple(row[1] for row in rows), *halves)
