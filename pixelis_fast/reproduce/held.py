"""Several processes share one reproduction: who makes something holds a lock beside it.

The kernel takes a lock back when its holder dies, so what a killed process began is free again.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def held(path: Path, *, wait: bool) -> Iterator[bool]:
    """Whether the lock is ours inside; never False where we wait for it.

    Example:
        with held(folder / "row.lock", wait=False) as ours:
            ...
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield _locked(file, wait=wait)
    finally:
        os.close(file)


def _locked(file: int, *, wait: bool) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
