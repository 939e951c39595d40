"""A byte-bounded cache of pixels, least recently used first out.

Holds arrays, which it makes read-only, and decoded frames in their codec's own format.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar

import numpy as np


class HasBytes(Protocol):
    """Anything that knows how much memory it holds."""

    @property
    def nbytes(self) -> int: ...


Kept = TypeVar("Kept", bound=HasBytes)


class PixelCache:
    """Least recently used pixels, never more than `byte_budget` bytes of them."""

    def __init__(self, byte_budget: int) -> None:
        self.byte_budget = byte_budget
        self.num_bytes = 0
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Any:
        """What was put under the key, or None."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: Hashable, pixels: Kept) -> Kept:
        """Keeps the pixels if they fit at all; an array is handed back read-only."""
        if isinstance(pixels, np.ndarray):
            pixels.flags.writeable = False
        with self._lock:
            if key not in self._kept and pixels.nbytes <= self.byte_budget:
                self._kept[key] = pixels
                self.num_bytes += pixels.nbytes
            while self.num_bytes > self.byte_budget:
                self.num_bytes -= self._kept.popitem(last=False)[1].nbytes
        return pixels

    def get_or_make(self, key: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
        found = self.get(key)
        return self.put(key, make()) if found is None else found
