"""Where the time went: milliseconds added up by stage name. Knows no stage's meaning."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field


def no_sync() -> None:
    """On the CPU every call is done when it returns."""


@dataclass
class Spans:
    """Milliseconds by stage.

    Example:
        spans = Spans()
        with spans("prefill"):
            ...
        spans.ms["prefill"]
    """

    ms: dict[str, float] = field(default_factory=dict)
    sync: Callable[[], None] = no_sync
    """Waits for the device (torch.cuda.synchronize), so that a span holds its own work only."""

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self.sync()
        start = time.perf_counter()
        try:
            yield
        finally:
            self.sync()
            self.add(stage, 1e3 * (time.perf_counter() - start))

    def add(self, stage: str, milliseconds: float) -> None:
        self.ms[stage] = self.ms.get(stage, 0.0) + milliseconds

    def merge(self, other: Mapping[str, float]) -> None:
        for stage, milliseconds in other.items():
            self.add(stage, milliseconds)
