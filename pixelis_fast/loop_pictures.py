"""Which runs wait for pictures: patches begun when one is shown, dropped when nobody waits.

Knows who shows what; the patches themselves are made by loop_patches.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pixelis_fast.loop_patches import PatchDesk
from pixelis_fast.loop_run import Run
from pixelis_fast.policy.engine import Engine


class Pictures:
    """`live` holds every admitted run."""

    def __init__(
        self, engine: Engine, desk: PatchDesk, live: Sequence[Run], *, wake: Callable[[], None]
    ) -> None:
        self._engine, self._desk, self._live, self._wake = engine, desk, live, wake

    def begin(self, run: Run) -> None:
        """The patches of what the run will show and the engine has no features of."""
        shown = {(slot.media_id, slot.grid_thw) for part in run.parts for slot in part.slots}
        for media_id, grid_thw in shown:
            if (media_id, grid_thw) not in self._engine.vision:
                run.missing.add(media_id)
                run.showing.add(media_id)
                self._desk.prepare(media_id, when_done=self._wake)

    def look(self, run: Run) -> None:
        """Which are there by now; raises what went wrong with one."""
        for media_id in list(run.missing):
            if self._desk.is_ready(media_id):
                run.missing.discard(media_id)
                run.spans.add("vision", self._desk.took_ms(media_id))

    def shown(self, run: Run) -> None:
        """The engine has seen all of them."""
        run.showing.clear()

    def drop(self, run: Run) -> None:
        """The run is over: what only it wanted is forgotten."""
        wanted = {
            media_id for other in self._live if other is not run for media_id in other.showing
        }
        for media_id in run.showing - wanted:
            self._desk.drop(media_id)
        run.missing.clear()
        run.showing.clear()
