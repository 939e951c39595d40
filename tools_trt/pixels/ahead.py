"""Items of an iterable, made by a thread a few ahead of whoever takes them.

    for frame_HWC in ahead(store.stream(clip.id, times_s), depth=4):
        encode(frame_HWC)

The thread starts with the first item and ends with the last, with an error, or when the consumer
stops early; it never outlives the generator. An error is raised where its item was due.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")
END = object()


def ahead(source: Iterable[Item], *, depth: int) -> Iterator[Item]:
    """The source's items in order; at most `depth` of them wait."""
    if depth < 1:
        raise ValueError(f"depth: expected at least 1, got {depth}")
    return _taken(source, Slots(depth))


class Slots:
    """A bounded line of (item, error) that the consumer can shut."""

    def __init__(self, depth: int) -> None:
        self._line: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
        self._is_shut = threading.Event()

    def fill(self, source: Iterable[Any]) -> None:
        """The thread's work."""
        try:
            for item in source:
                self._line.put((item, None))
                # After the put: shutting empties the line, which lets a waiting put through.
                if self._is_shut.is_set():
                    return
        except BaseException as error:  # raised again by the consumer
            self._line.put((END, error))
        else:
            self._line.put((END, None))

    def take(self) -> Any:
        item, error = self._line.get()
        if error is not None:
            raise error
        return item

    def shut(self, thread: threading.Thread) -> None:
        self._is_shut.set()
        while thread.is_alive():
            while not self._line.empty():
                self._line.get_nowait()
            thread.join(0.001)


def _taken(source: Iterable[Item], slots: Slots) -> Iterator[Item]:
    thread = threading.Thread(target=slots.fill, args=(source,), name="ahead", daemon=True)
    thread.start()
    try:
        while (item := slots.take()) is not END:
            yield item
    finally:
        slots.shut(thread)
