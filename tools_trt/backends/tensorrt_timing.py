"""TensorRT's timing cache on disk: measured kernels are reused by later builds.

One file per version and architecture. Builders in several processes each merge what they learned
into what lies there by then; the file is replaced as a whole under a lock.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pixelis_fast.tools_trt.graphs.file_lock import file_lock

if TYPE_CHECKING:
    import tensorrt


class TimingCache:
    """The cache attached to one build."""

    def __init__(self, path: Path, config: tensorrt.IBuilderConfig) -> None:
        self._path, self._config = path, config
        self._attach(path.read_bytes() if path.is_file() else b"")

    def save(self) -> None:
        """Merges with what others saved since, then replaces the file."""
        cache = self._config.get_timing_cache()
        with file_lock(self._path.with_suffix(".lock")):
            if self._path.is_file():
                saved = self._config.create_timing_cache(self._path.read_bytes())
                cache.combine(saved, ignore_mismatch=False)
            fresh = self._path.with_suffix(f".{os.getpid()}.tmp")
            fresh.write_bytes(bytes(cache.serialize()))
            fresh.replace(self._path)

    def _attach(self, data: bytes) -> None:
        """A cache of another device or version is refused by the builder: start an empty one."""
        cache = self._config.create_timing_cache(data)
        if cache is None or not self._config.set_timing_cache(cache, ignore_mismatch=False):
            self._config.set_timing_cache(
                self._config.create_timing_cache(b""), ignore_mismatch=False
            )
