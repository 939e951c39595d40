"""What this process holds: resident memory and open files, as Linux counts them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

WARM_UP = 0.4
"""Share of a run before memory is watched: caches fill, allocators settle."""
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident_mb() -> float:
    """Memory of this process that is in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def reset_peak() -> None:
    """`peak_mb` begins anew."""
    CLEAR.write_text("5")


def peak_mb() -> float:
    """Most resident memory since the last `reset_peak`, VmHWM."""
    return status_bytes("VmHWM") / 2**20


def status_bytes(name: str) -> int:
    """A line of /proc/self/status."""
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def slope_mb(done: Sequence[int], resident_mb: Sequence[float]) -> float:
    """Growth of resident memory per 1,000 done after the warm-up, by least squares."""
    first = int(WARM_UP * len(done))
    return float(np.polyfit(done[first:], resident_mb[first:], 1)[0] * 1000)
