"""The truth's tables and how its file is opened: write-ahead log, every commit on the disk.

Vectors and trajectories stand in tables of their own, so that rebuilding an index reads no
trajectory and an eviction reads neither.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import quote

from pixelis_fast.memory.errors import MemoryStoreError

FILE_NAME = "experiences.sqlite"
VERSION = 1
WAIT_S = 10.0
"""For a reader's short locks; writers exclude each other by lock.py."""

TABLES = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE experiences (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  tenant TEXT NOT NULL, id TEXT NOT NULL, sample_id TEXT NOT NULL, question TEXT NOT NULL,
  answer TEXT, confidence REAL NOT NULL, success REAL NOT NULL, visfid REAL NOT NULL,
  policy_version TEXT NOT NULL, created_s REAL NOT NULL, source TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  redundancy REAL NOT NULL, twin INTEGER,
  UNIQUE (tenant, id)
);
CREATE INDEX experiences_of_tenant ON experiences (tenant, number);
CREATE TABLE embeddings (
  number INTEGER PRIMARY KEY, digest INTEGER NOT NULL, text BLOB NOT NULL, pixel BLOB NOT NULL
);
CREATE TABLE trajectories (number INTEGER PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE totals (
  tenant TEXT PRIMARY KEY, count INTEGER NOT NULL, bytes INTEGER NOT NULL,
  last_number INTEGER NOT NULL, last_eviction INTEGER NOT NULL, checksum INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE evictions (
  eviction INTEGER PRIMARY KEY AUTOINCREMENT,
  tenant TEXT NOT NULL, id TEXT NOT NULL, number INTEGER NOT NULL, digest INTEGER NOT NULL,
  value REAL NOT NULL, reason TEXT NOT NULL
);
CREATE INDEX evictions_of_tenant ON evictions (tenant, eviction);
"""


def connect_writer(folder: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        folder / FILE_NAME, isolation_level=None, check_same_thread=False, timeout=WAIT_S
    )


def make_durable(connection: sqlite3.Connection, folder: Path) -> None:
    mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal":
        raise MemoryStoreError(
            f"memory {folder}: expected a disk with write-ahead logs, got {mode}"
        )
    connection.execute("PRAGMA synchronous=FULL")


def connect_reader(folder: Path) -> sqlite3.Connection:
    path = folder / FILE_NAME
    if not path.is_file():
        raise MemoryStoreError(f"memory {folder}: expected {FILE_NAME}, found none")
    address = f"file:{quote(str(path))}?mode=ro"
    return sqlite3.connect(
        address, uri=True, isolation_level=None, check_same_thread=False, timeout=WAIT_S
    )


def found_version(connection: sqlite3.Connection) -> int:
    return connection.execute("PRAGMA user_version").fetchone()[0]


def create_tables(connection: sqlite3.Connection, dimensions: dict[str, int]) -> None:
    """All or nothing: a crash leaves version 0, and the next writer begins again."""
    statements = [each for each in TABLES.split(";") if each.strip()]
    connection.execute("BEGIN IMMEDIATE")
    for statement in statements:
        connection.execute(statement)
    connection.executemany("INSERT INTO settings VALUES (?, ?)", list(dimensions.items()))
    connection.execute(f"PRAGMA user_version={VERSION}")
    connection.execute("COMMIT")


def check_tables(connection: sqlite3.Connection, folder: Path, dimensions: dict[str, int]) -> None:
    version = found_version(connection)
    if version != VERSION:
        raise MemoryStoreError(f"memory {folder}: expected schema {VERSION}, got {version}")
    stored = dict(connection.execute("SELECT name, value FROM settings"))
    for name, wanted in dimensions.items():
        if stored[name] != wanted:
            raise ValueError(f"{name}: expected {stored[name]}, as in {folder}, got {wanted}")
