"""What every converter is: rows in, records out, and what it could not convert."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pixelis_fast.data.convert_media import MediaFolder
from pixelis_fast.data.cota import CotaRecord
from pixelis_fast.data.rows import Row


class UnsupportedError(ValueError):
    """A record that asks for something the six tools cannot; the message says what."""

    def __init__(self, message: str, *, where: str = "") -> None:
        super().__init__(f"{where}: {message}" if where else message)
        self.kind = message.partition(":")[0]
        """What of it is not supported: operation, box, target_image, …"""


@dataclass(frozen=True)
class Source:
    """Where a converter's row comes from and its media go to."""

    row: Row
    number: int
    root: Path
    """What relative media paths are relative to."""
    media: MediaFolder


ToRecord = Callable[[Source], CotaRecord]
