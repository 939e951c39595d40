"""Opening a folder: the lock, the file, what a crash left behind."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pixelis_fast.memory.config import MemoryConfig
from pixelis_fast.memory.errors import MemoryStoreError
from pixelis_fast.memory.lock import WriterLock
from pixelis_fast.memory.schema import (
    FILE_NAME,
    check_tables,
    connect_reader,
    connect_writer,
    create_tables,
    found_version,
    make_durable,
)
from pixelis_fast.memory.sqlite_errors import told
from pixelis_fast.memory.truth import Truth
from pixelis_fast.memory.wal_tail import read_tail


@dataclass(frozen=True)
class OpenTruth:
    """What `close_truth` needs."""

    truth: Truth
    lock: WriterLock | None
    notes: tuple[str, ...]


def open_truth(folder: Path, config: MemoryConfig, *, read_only: bool) -> OpenTruth:
    dimensions = {
        "text_dimension": config.text_dimension,
        "pixel_dimension": config.pixel_dimension,
    }
    if read_only:
        return OpenTruth(_reader(folder, dimensions), None, ())
    folder.mkdir(parents=True, exist_ok=True)
    lock = WriterLock(folder)
    try:
        truth, notes = _writer(folder, dimensions)
    except BaseException:
        lock.release()
        raise
    return OpenTruth(truth, lock, notes)


def close_truth(opened: OpenTruth) -> None:
    opened.truth.close()
    if opened.lock is not None:
        opened.lock.release()


def _reader(folder: Path, dimensions: dict[str, int]) -> Truth:
    connection = connect_reader(folder)
    with _closed_on_error(connection), told(folder, "read", kind=MemoryStoreError):
        check_tables(connection, folder, dimensions)
    return Truth(connection, folder)


def _writer(folder: Path, dimensions: dict[str, int]) -> tuple[Truth, tuple[str, ...]]:
    tail = read_tail(folder / f"{FILE_NAME}-wal")
    connection = connect_writer(folder)
    with _closed_on_error(connection), told(folder, "store its tables"):
        make_durable(connection, folder)
        # This makes SQLite read the log; what it took, a checkpoint tells.
        is_new = found_version(connection) == 0
        _, taken, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if is_new:
            create_tables(connection, dimensions)
        check_tables(connection, folder, dimensions)
    lost = tail.lost(taken=max(taken, 0))
    return Truth(connection, folder), (lost,) if lost else ()


@contextmanager
def _closed_on_error(connection: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise
