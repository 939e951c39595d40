"""Wall time by stage of one step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Adds up stages until they are taken.

    Example:
        with clock("rollout"):
            ...
        clock.take()  # {"rollout": 812.3}
    """

    def __init__(self) -> None:
        self._ms: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start_s = time.perf_counter()
        try:
            yield
        finally:
            spent_ms = 1e3 * (time.perf_counter() - start_s)
            self._ms[stage] = self._ms.get(stage, 0.0) + spent_ms

    def take(self) -> dict[str, float]:
        taken, self._ms = self._ms, {}
        return taken
