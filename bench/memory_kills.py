"""A writer killed with SIGKILL at random points, again and again on one folder.

After each kill the memory is opened and read whole: every add that had returned must be stored (or
in the log of evictions), the numbers have no gap, totals and index equal the truth, the next
writer goes on.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.memory_worker import stored_numbers, worker_config
from pixelis_fast.memory import ExperienceMemory

ROOT = Path(__file__).resolve().parents[1]
MOST_ADDS = 80
"""A writer lives for a random number of adds below this, and then for a random moment: counted in
adds, a busy machine does not move the kills to the writer's start."""
LONGEST_S = 0.03
"""About what an add takes, or opening: a moment that may fall anywhere in one."""


@dataclass
class Kills:
    """What all kills together showed.

    Example:
        found = kill_writers(folder, count=200, seed=0); found.lost == []
    """

    count: int = 0
    acknowledged: int = 0
    unacknowledged: int = 0
    """Stored, though the writer died before it could say so."""
    lost: list[int] = field(default_factory=list)
    """Numbers of adds that had returned and are gone."""
    gaps: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    without_progress: int = 0
    """Writers killed before their first add returned."""
    open_ms: list[float] = field(default_factory=list)
    """Opening and reading everything after a kill."""


def start_writer(folder: Path, *options: str) -> subprocess.Popen[str]:
    """Returns once it says that it is ready."""
    command = [sys.executable, "-m", "bench.memory_worker", str(folder), *options]
    writer = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None, "a pipe was asked for"
    if writer.stdout.readline() != "ready\n":
        raise RuntimeError(f"{' '.join(command)}: expected it to start, got status {writer.wait()}")
    return writer


def killed_after(folder: Path, *, adds: int, seconds: float) -> list[int]:
    """Numbers that a writer said before it was killed, that long after so many adds."""
    writer = start_writer(folder)
    assert writer.stdout is not None, "start_writer reads it"
    said = [writer.stdout.readline() for _ in range(adds)]
    time.sleep(seconds)
    writer.kill()
    rest, _ = writer.communicate()
    return [int(line.split()[0]) for line in [*said, *rest.splitlines()]]


def kill_writers(
    folder: Path,
    *,
    count: int,
    seed: int,
    most_adds: int = MOST_ADDS,
    tick: Callable[[], None] = lambda: None,
) -> Kills:
    chance, found = random.Random(seed), Kills()
    for _ in range(count):
        adds, seconds = chance.randrange(most_adds), chance.uniform(0, LONGEST_S)
        said = killed_after(folder, adds=adds, seconds=seconds)
        found.count += 1
        found.acknowledged += len(said)
        found.without_progress += not said
        _look(folder, said, found)
        tick()
    return found


def _look(folder: Path, said: list[int], found: Kills) -> None:
    start_s = time.perf_counter()
    with ExperienceMemory(folder, worker_config()) as memory:
        verdict = memory.verify()
        found.open_ms.append(1e3 * (time.perf_counter() - start_s))
        stored = stored_numbers(memory)
        found.notes += memory.notes
    found.problems += verdict.problems
    found.lost += sorted({*said} - stored)
    found.gaps += sorted({*range(len(stored))} - stored)
    found.unacknowledged = len(stored) - found.acknowledged
