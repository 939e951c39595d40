"""One writer per folder: a file lock that the kernel takes back when its holder dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path

from pixelis_fast.memory.errors import MemoryLockedError

FILE_NAME = "writer.lock"


class WriterLock:
    """Held from construction until `release`; MemoryLockedError names who holds it instead."""

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._file, 4096, 0)
            os.close(self._file)
            raise MemoryLockedError(
                f"memory {folder}: expected no other writer, got {_told(holder)}"
            ) from error
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(_me()).encode(), 0)

    def release(self) -> None:
        os.close(self._file)


def _me() -> dict[str, object]:
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return {"process": os.getpid(), "host": socket.gethostname(), "since": since}


def _told(holder: bytes) -> str:
    """The holder writes its name after it got the lock: for a moment there may be none."""
    if not holder:
        return "one that has just begun"
    named = json.loads(holder)
    return f"process {named['process']} on {named['host']} since {named['since']}"
