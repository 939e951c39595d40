"""Memory that the C library keeps though nobody uses it goes back to the system.

glibc raises the size from which a block is mapped on its own to that of the largest one freed: from
then on pictures and tensors come from its arenas, whose holes stay resident.
"""

from __future__ import annotations

import ctypes
from functools import cache

TRIM_EVERY = 100
"""Works of a compute thread."""


class Heap:
    """Trims once in so many works.

    Example:
        heap = Heap()
        heap.worked()
    """

    def __init__(self, every: int = TRIM_EVERY) -> None:
        self._every, self._done = every, 0

    def worked(self) -> None:
        self._done += 1
        if self._done % self._every == 0:
            trim()


def trim() -> bool:
    """Whether anything was given back; False where the C library has no `malloc_trim`."""
    library = c_library()
    return hasattr(library, "malloc_trim") and bool(library.malloc_trim(0))


@cache
def c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None)
