"""SQLite's errors in the memory's words: no room, no access, or a damaged file."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pixelis_fast.memory.errors import MemoryDamagedError, MemoryStoreError, MemoryWriteError


@contextmanager
def told(
    folder: Path, doing: str, *, kind: type[MemoryStoreError] = MemoryWriteError
) -> Iterator[None]:
    """An error of SQLite while `doing` becomes one of `kind`, or a MemoryDamagedError."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise kind(
            f"memory {folder}: expected to {doing}, got {str(error)!r} "
            f"({_room(folder)}); nothing stored before is lost"
        ) from error
    except sqlite3.DatabaseError as error:
        raise MemoryDamagedError(
            f"memory {folder}: expected a whole database, got {str(error)!r}"
        ) from error


def _room(folder: Path) -> str:
    """What its reader needs to make some."""
    free = f"{shutil.disk_usage(folder).free} bytes free on the disk"
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit == resource.RLIM_INFINITY:
        return free
    largest = max(os.path.getsize(path) for path in folder.iterdir() if path.is_file())
    return f"{free}, files limited to {limit} bytes and the largest has {largest}"
