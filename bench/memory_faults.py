"""What a disk or a second process can do to a memory: damaged logs, no room, two writers."""

from __future__ import annotations

import contextlib
import random
import resource
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.memory_experiences import experience, key, small_config
from bench.memory_kills import start_writer
from bench.memory_worker import stored_numbers, tenant_of, worker_config
from pixelis_fast.memory import ExperienceMemory, MemoryLockedError, MemoryWriteError
from pixelis_fast.memory.schema import FILE_NAME

LOG_NAME = f"{FILE_NAME}-wal"
KEEP = 10_000
"""Nothing is evicted here."""


@dataclass(frozen=True)
class Written:
    """A folder whose writer was killed, so that its log still holds all of its adds."""

    folder: Path
    log_bytes: tuple[int, ...]
    """After each add, in order."""


@dataclass(frozen=True)
class Reopened:
    """What a damaged copy gave.

    Example:
        Reopened(kept=7, is_prefix=True, problems=(), notes=("log: damaged after page 40: …",))
    """

    kept: int
    is_prefix: bool
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def write_and_kill(folder: Path, *, adds: int) -> Written:
    writer = start_writer(folder, "--keep", str(KEEP), "--reopen-every", str(KEEP))
    assert writer.stdout is not None, "start_writer reads it"
    sizes = [int(writer.stdout.readline().split()[1]) for _ in range(adds)]
    writer.kill()
    writer.communicate()
    return Written(folder, tuple(sizes))


def reopen(folder: Path) -> Reopened:
    """Also adds one: a damaged memory goes on."""
    with ExperienceMemory(folder, worker_config(KEEP)) as memory:
        stored, notes = stored_numbers(memory), memory.notes
        memory.add(experience(10**6, tenant=tenant_of(0)))
        problems = memory.verify().problems
    return Reopened(len(stored), stored == {*range(len(stored))}, problems, notes)


def damaged_copy(written: Written, folder: Path, log: bytes) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(written.folder, folder)
    (folder / LOG_NAME).write_bytes(log)
    # Shared memory does not survive what damages a log.
    (folder / f"{FILE_NAME}-shm").unlink(missing_ok=True)
    return folder


def cut(log: bytes, place: int) -> bytes:
    return log[:place]


def flip(log: bytes, place: int) -> bytes:
    return log[:place] + bytes([log[place] ^ 0x10]) + log[place + 1 :]


def blank(log: bytes, place: int) -> bytes:
    """The rest was never written, as after a cut of power on some file systems."""
    return log[:place] + bytes(len(log) - place)


DAMAGES = {"cut": cut, "flip": flip, "blank": blank}


@dataclass
class Tails:
    """All damages together."""

    count: int = 0
    problems: int = 0
    lost_before_damage: int = 0
    """Adds whose commit lay wholly before the damage and that are gone: must be 0."""
    silent_losses: int = 0
    """Reopenings that lost an add and said nothing."""
    kept: int = 0
    lost: int = 0


def damage_tails(written: Written, scratch: Path, *, count: int, seed: int) -> Tails:
    chance, found = random.Random(seed), Tails()
    log = (written.folder / LOG_NAME).read_bytes()
    for number in range(count):
        kind = list(DAMAGES)[number % len(DAMAGES)]
        place = chance.randrange(32, len(log))
        reopened = reopen(damaged_copy(written, scratch, DAMAGES[kind](log, place)))
        _count(found, written, reopened, place, is_cut=kind == "cut")
    return found


def _count(found: Tails, written: Written, got: Reopened, place: int, *, is_cut: bool) -> None:
    sure = sum(size <= place for size in written.log_bytes)
    lost = max(len(written.log_bytes) - got.kept, 0)
    found.count += 1
    found.kept, found.lost = found.kept + got.kept, found.lost + lost
    found.problems += bool(got.problems) or not got.is_prefix
    found.lost_before_damage += max(sure - got.kept, 0)
    # A log that was cut between two commits looks like one that had no more.
    is_clean_cut = is_cut and place in written.log_bytes
    found.silent_losses += bool(lost and not got.notes and not is_clean_cut)


@contextlib.contextmanager
def file_size_limit(limit_bytes: int) -> Iterator[None]:
    """No file of this process grows beyond; Python already ignores the signal that says so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def small_disk(folder: Path, *, size_bytes: int) -> Iterator[Path]:
    """A real file system that is really full; mounting one takes root."""
    folder.mkdir(parents=True)
    options = ["-o", f"size={size_bytes}"]
    subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@dataclass(frozen=True)
class Full:
    """What a memory did when there was no more room."""

    stored: int
    """Adds that had returned."""
    message: str
    found_after: int
    """Of those, by a search after the error."""
    kept_after: int
    """Of those, after closing and opening with room."""
    problems: tuple[str, ...]
    goes_on: bool
    """Adds again once there is room."""


def fill_up(folder: Path, room: contextlib.AbstractContextManager[object]) -> Full:
    """Adds inside `room` until one fails; opens again outside of it."""
    config = small_config(max_experiences=KEEP)
    memory, stored = ExperienceMemory(folder, config), 0
    with room:
        message = ""
        while not message:
            try:
                memory.add(experience(stored, question="why " * 500))
                stored += 1
            except MemoryWriteError as error:
                message = str(error)
        found = sum(_finds(memory, number) for number in range(stored))
    memory.add(experience(10**6))
    memory.close()
    with ExperienceMemory(folder, config) as again:
        kept = len({*again.ids("lab")} & {str(number) for number in range(stored)})
        goes_on = ("lab", str(10**6)) in again
        problems = again.verify().problems
    return Full(stored, message, found, kept, problems, goes_on)


@contextlib.contextmanager
def ballast(folder: Path, *, leave_bytes: int) -> Iterator[None]:
    """Takes the room of a small disk up but for some; gives it back."""
    path = folder / "ballast"
    path.write_bytes(bytes(shutil.disk_usage(folder).free - leave_bytes))
    try:
        yield
    finally:
        path.unlink()


def _finds(memory: ExperienceMemory, number: int) -> bool:
    return memory.nearest(key(number), 1, "lab")[0].experience.id == str(number)


def second_writer(folder: Path) -> tuple[str, int]:
    """What a second writer is told, and the process that holds the folder."""
    writer = start_writer(folder)
    assert writer.stdout is not None, "start_writer reads it"
    writer.stdout.readline()
    try:
        ExperienceMemory(folder, worker_config()).close()
        told = "nothing"
    except MemoryLockedError as error:
        told = str(error)
    finally:
        writer.kill()
        writer.communicate()
    return told, writer.pid
