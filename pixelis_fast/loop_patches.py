"""Patches of pictures and clips, made by a thread of their own before the engine asks for them.

The engine gets `take` as its loader: what was prepared is handed over, anything else is made where
it is asked for. Knows neither sessions nor the vision tower.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from pixelis_fast.policy.image import Patches

MakePatches = Callable[[str], Patches]


@dataclass(frozen=True)
class Made:
    """What the thread made, and how long it took."""

    patches: Patches
    took_ms: float


class PatchDesk:
    """Makes patches ahead.

    Example:
        desk = PatchDesk(views.patches)
        desk.prepare(media.id, when_done=wake)
        patches = desk.take(media.id)
    """

    def __init__(self, make: MakePatches) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: dict[str, Future[Made]] = {}
        # One thread: its work and the tools' compete for the cores that the policy leaves.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="patches")

    def prepare(self, media_id: str, *, when_done: Callable[[], None]) -> None:
        """Begins unless it is under way; `when_done` is called from the thread, or at once."""
        with self._lock:
            if media_id not in self._made:
                self._made[media_id] = self._pool.submit(self._timed, media_id)
            future = self._made[media_id]
        future.add_done_callback(lambda _: when_done())

    def is_ready(self, media_id: str) -> bool:
        """Whether `take` will not wait; raises what went wrong. True for what nobody prepares."""
        with self._lock:
            future = self._made.get(media_id)
            if future is None or not future.done():
                return future is None
            if future.exception() is not None:
                del self._made[media_id]
        future.result()
        return True

    def take(self, media_id: str) -> Patches:
        """The patches, which the desk then forgets."""
        with self._lock:
            future = self._made.pop(media_id, None)
        return self._make(media_id) if future is None else future.result().patches

    def took_ms(self, media_id: str) -> float:
        """Milliseconds of the thread for what is ready and not taken yet, else 0."""
        with self._lock:
            future = self._made.get(media_id)
        return future.result().took_ms if future is not None and future.done() else 0.0

    def drop(self, media_id: str) -> None:
        """Nobody wants it any more."""
        with self._lock:
            future = self._made.pop(media_id, None)
        if future is not None:
            future.cancel()

    def __len__(self) -> int:
        """Media that are under way or wait to be taken."""
        return len(self._made)

    def _timed(self, media_id: str) -> Made:
        start_s = time.perf_counter()
        patches = self._make(media_id)
        return Made(patches, 1e3 * (time.perf_counter() - start_s))
