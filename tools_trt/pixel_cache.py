"""A byte-bounded cache of decoded pixels, least recently used first out."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np


class PixelCache:
    """Least recently used arrays, never more than `byte_budget` bytes of them."""

    def __init__(self, byte_budget: int) -> None:
        self.byte_budget = byte_budget
        self.num_bytes = 0
        self._arrays: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> np.ndarray | None:
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
            return self._arrays.get(key)

    def put(self, key: Hashable, pixels: np.ndarray) -> np.ndarray:
        """Keeps the pixels if they fit at all; returns them read-only."""
        pixels.flags.writeable = False
        with self._lock:
            if key not in self._arrays and pixels.nbytes <= self.byte_budget:
                self._arrays[key] = pixels
                self.num_bytes += pixels.nbytes
            while self.num_bytes > self.byte_budget:
                self.num_bytes -= self._arrays.popitem(last=False)[1].nbytes
        return pixels

    def get_or_make(self, key: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
        found = self.get(key)
        return self.put(key, make()) if found is None else found
