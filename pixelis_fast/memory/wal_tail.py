"""What a write-ahead log holds that could not be read back: said once, when a writer opens.

SQLite takes the log up to the last commit before the first damaged page, and is silent about the
rest. Counting the log's commits before it opens and what it took afterwards says what was lost.
The log's layout is part of SQLite's file format: a header of 32 bytes, then frames of 24 bytes and
a page; a frame of the running log repeats the header's salts, and its bytes 4..8 are not zero
where it ends a transaction.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

HEADER_BYTES, FRAME_HEADER_BYTES = 32, 24
MAGIC = (0x377F0682, 0x377F0683)
OLDER_LOGS = 1 << 20
"""A salt this little behind the running one is an older log's; any other is damage."""


@dataclass(frozen=True)
class WalTail:
    """Frames of the running log, as they lie in the file.

    Example:
        tail = read_tail(path); tail.lost(taken=12)
    """

    commits: tuple[bool, ...]
    """Per frame of this log, in order: does it end a transaction?"""
    torn_bytes: int
    """After the last whole frame."""
    has_header: bool

    def lost(self, *, taken: int) -> str | None:
        """A sentence on what lies behind the frames that SQLite took; None where nothing does."""
        behind = self.commits[taken:]
        transactions = sum(behind)
        unfinished = len(behind) + bool(self.torn_bytes)
        if not self.has_header and self.torn_bytes:
            return f"log: {self.torn_bytes} bytes with a damaged header could not be read"
        if transactions:
            return (
                f"log: damaged after page {taken}: {transactions} commits behind it are lost, "
                "what was committed before is kept"
            )
        if unfinished:
            return f"log: {unfinished} pages of an add that never finished were dropped"
        return None


def read_tail(path: Path) -> WalTail:
    """Reads the frame headers of a log; an absent or empty one has nothing."""
    if not path.is_file() or path.stat().st_size == 0:
        return WalTail((), 0, has_header=False)
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
        if not _is_header(header):
            return WalTail((), size, has_header=False)
        page_bytes, salt = struct.unpack_from(">I", header, 8)[0], header[16:24]
        frame_bytes = FRAME_HEADER_BYTES + page_bytes
        whole, rest = divmod(size - HEADER_BYTES, frame_bytes)
        commits: list[bool] = []
        for number in range(whole):
            file.seek(HEADER_BYTES + number * frame_bytes)
            frame = file.read(FRAME_HEADER_BYTES)
            if _is_older(frame[8:12], salt[:4]):
                return WalTail(tuple(commits), 0, has_header=True)
            commits.append(frame[8:16] == salt and frame[4:8] != bytes(4))
    return WalTail(tuple(commits), rest, has_header=True)


def _is_older(salt: bytes, running: bytes) -> bool:
    """Left by an earlier log, whose pages are in the database: each log counts this salt up."""
    behind = (int.from_bytes(running, "big") - int.from_bytes(salt, "big")) % 2**32
    return 0 < behind < OLDER_LOGS


def _is_header(header: bytes) -> bool:
    """The header's own checksum tells a torn one."""
    if len(header) < HEADER_BYTES or struct.unpack(">I", header[:4])[0] not in MAGIC:
        return False
    order = ">" if header[3] & 1 else "<"
    first = second = 0
    for one, other in struct.iter_unpack(f"{order}2I", header[:24]):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return (first, second) == struct.unpack(">2I", header[24:32])
