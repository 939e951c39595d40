"""What this process holds: resident memory and open files, as Linux counts them."""

from __future__ import annotations

import os
from pathlib import Path


def resident_mb() -> float:
    """Memory of this process that is in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def reset_peak() -> None:
    """`peak_mb` begins anew."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """Most resident memory since the last `reset_peak`, VmHWM."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) / 2**10
