"""An append-only log of what a learner did: one JSON object a line, each chained to the one before.

A line's hash is sha256 over the hash of the line before it and its own content, so no line can be
changed, put in, or taken out from before another unseen. Lines missing from the end only those can
tell who know how many there were; a learner does, from its snapshot. Every append is flushed to the
disk before it returns. A last line that a crash tore is cut off, and the log says so; anything else
that does not fit is an error.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIRST = "0" * 64
"""The hash before the first line."""
Row = dict[str, Any]


class AuditError(ValueError):
    """The log is not what was written, or somebody else writes it."""


@dataclass(frozen=True)
class AuditReport:
    """What a verification found.

    Example:
        report = verify(Path("audit.jsonl"))
    """

    num_events: int
    head: str
    """Hash of the last whole line."""
    num_bytes: int
    """Of the whole lines."""
    torn_bytes: int
    """Of a last line that was not finished."""


class AuditLog:
    """One writer's log.

    Example:
        with AuditLog(Path("run/audit.jsonl")) as log:
            log.append("publish", version="v7", kl=0.15)
    """

    def __init__(self, path: Path) -> None:
        """Opens or begins it; AuditError where it was tampered with or is being written."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self._lock()
            report = verify(path)
        except BaseException:
            os.close(self._file)
            raise
        self.num_events, self.head = report.num_events, report.head
        self._size = report.num_bytes
        if report.torn_bytes:
            os.ftruncate(self._file, report.num_bytes)
            self.append("log_cut", torn_bytes=report.torn_bytes)
        else:
            _sync_folder(path.parent)

    def append(self, kind: str, **data: Any) -> Row:
        """Writes one event durably and gives its row; after an error the log is as before."""
        row: Row = {
            "n": self.num_events,
            "time_s": round(time.time(), 3),
            "kind": kind,
            "data": plain(data),
            "before": self.head,
        }
        row["hash"] = line_hash(row)
        line = line_of(row)
        try:
            _write_all(self._file, line)
            os.fsync(self._file)
        except BaseException:  # an interrupt must not leave a line that no next one continues
            os.ftruncate(self._file, self._size)
            raise
        self.num_events, self.head = self.num_events + 1, row["hash"]
        self._size += len(line)
        return row

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> AuditLog:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AuditError(f"{self.path}: expected to be its only writer, got another") from error


def verify(path: Path) -> AuditReport:
    """Checks every link; AuditError names the first line that does not fit."""
    number, size, torn, head = 0, 0, 0, FIRST
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                torn = len(line)
                break
            head = _check_line(path, number, line, head)
            number, size = number + 1, size + len(line)
    return AuditReport(number, head, size, torn)


def read_events(path: Path) -> list[Row]:
    """Every whole line, verified."""
    report = verify(path)
    return [json.loads(line) for line in path.read_bytes()[: report.num_bytes].splitlines()]


def line_hash(row: Row) -> str:
    """Over everything in the row but the hash itself."""
    content = {key: value for key, value in row.items() if key != "hash"}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def line_of(row: Row) -> bytes:
    return (json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n").encode()


def plain(value: Any) -> Any:
    """As JSON has it: a float that is no number becomes its name, a tuple a list."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _check_line(path: Path, number: int, line: bytes, before: str) -> str:
    try:
        row = json.loads(line)
        fits = row["n"] == number and row["before"] == before and row["hash"] == line_hash(row)
        # What a reader overlooks, a key given twice say, no hash is about.
        fits = fits and line == line_of(row)
    except (ValueError, KeyError, TypeError):
        fits = False
    if not fits:
        raise AuditError(f"{path}: expected line {number + 1} to continue the chain, got a break")
    return str(row["hash"])


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
