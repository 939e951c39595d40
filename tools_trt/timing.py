"""Wall time per stage of one tool call.

Example:
    clock = StageClock()
    with clock.stage("pre"):
        inputs = prepare(image)
    result = Result(..., stage_ms=clock.stage_ms())
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from pixelis_fast.tools_trt.results import StageMs

Stage = Literal["queue", "pre", "run", "post"]


class StageClock:
    """Adds up the milliseconds spent in each stage; a stage may be entered many times."""

    def __init__(self) -> None:
        self._ms: dict[Stage, float] = dict.fromkeys(("queue", "pre", "run", "post"), 0.0)

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._ms[name] += (time.perf_counter() - start) * 1000

    def stage_ms(self) -> StageMs:
        return StageMs(**self._ms)
