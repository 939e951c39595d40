"""How fast a memory adds, finds and starts, beside lines of JSON with a matrix."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.harness import Check, Timing, interleave, progress_bar, timed
from bench.memory_experiences import experience, key
from bench.memory_naive import NaiveMemory
from pixelis_fast.memory import ExperienceMemory, MemoryConfig, Worth
from pixelis_fast.memory.index_file import FOLDER

CONFIG = MemoryConfig(pixel_dimension=256, max_experiences=1_000_000, max_bytes=1 << 40)
CHUNK = 1000
NEIGHBOURS = 8
SEARCHES, ADDS, STARTS = 30, 60, 3
TENANT = "lab"


@dataclass(frozen=True)
class Speed:
    """Timings of one size, and whether both arms found the same."""

    timings: list[Timing]
    checks: list[Check]


def fill(memory: ExperienceMemory | NaiveMemory, count: int) -> None:
    with progress_bar() as bar:
        task = bar.add_task(f"{type(memory).__name__}: {count} experiences", total=count)
        for start in range(0, count, CHUNK):
            numbers = range(start, min(start + CHUNK, count))
            memory.add_many([experience(number, config=CONFIG) for number in numbers])
            bar.advance(task, len(numbers))


def measure(count: int, *, naive: bool) -> Speed:
    """`naive`: also the other arm."""
    folder = Path(tempfile.mkdtemp())
    try:
        return _measure(folder, count, naive=naive)
    finally:
        shutil.rmtree(folder)


def _measure(folder: Path, count: int, *, naive: bool) -> Speed:
    # Doubles are looked for by single adds, as a learner makes them, not while the folder is made.
    worth = Worth(redundancy=0.0)
    with ExperienceMemory(folder / "ours", replace(CONFIG, worth=worth)) as filled:
        fill(filled, count)
    if naive:
        other = NaiveMemory(folder / "naive.jsonl")
        fill(other, count)
        other.close()
    starts = _starts(folder, count, naive=naive)
    ours = ExperienceMemory(folder / "ours", CONFIG)
    theirs = NaiveMemory(folder / "naive.jsonl") if naive else None
    searches, check = _searches(ours, theirs, count)
    adds = _adds(ours, theirs, count)
    ours.close()
    return Speed(starts + searches + adds, [check])


def _starts(folder: Path, count: int, *, naive: bool) -> list[Timing]:
    """Until the first search can be answered: from the index's file, and from the truth alone."""

    def open_ours() -> None:
        with ExperienceMemory(folder / "ours", CONFIG, read_only=True) as memory:
            memory.nearest(key(0, CONFIG), 1, TENANT)

    def rebuild_ours() -> None:
        hidden = folder / "ours" / "hidden"
        (folder / "ours" / FOLDER).rename(hidden)
        open_ours()
        hidden.rename(folder / "ours" / FOLDER)

    arms: dict[str, Callable[[], None]] = {"ours": open_ours, "ours, rebuilt": rebuild_ours}
    if naive:
        arms["naive"] = lambda: NaiveMemory(folder / "naive.jsonl").close()
    samples = interleave(arms, warmup=0, runs=STARTS)
    return [timed(f"start, {count}", arm, each) for arm, each in samples.items()]


def _searches(
    ours: ExperienceMemory, theirs: NaiveMemory | None, count: int
) -> tuple[list[Timing], Check]:
    asked = [key(10**7 + number, CONFIG) for number in range(SEARCHES)]
    found: dict[str, list[list[tuple[str, float]]]] = {"ours": [], "naive": []}

    def ask_ours() -> None:
        near = ours.nearest(asked[len(found["ours"]) % SEARCHES], NEIGHBOURS, TENANT)
        found["ours"].append([(n.experience.id, n.similarity) for n in near])

    def ask_theirs() -> None:
        assert theirs is not None, "only an arm where it was filled"
        near = theirs.nearest(asked[len(found["naive"]) % SEARCHES], NEIGHBOURS)
        found["naive"].append([(id_, similarity) for id_, similarity, _ in near])

    arms = {"ours": ask_ours} | ({"naive": ask_theirs} if theirs else {})
    samples = interleave(arms, warmup=1, runs=SEARCHES)
    timings = [timed(f"nearest, {count}", arm, each) for arm, each in samples.items()]
    return timings, _same(count, found["ours"], found["naive"] or found["ours"])


def _same(
    count: int,
    ours: Sequence[Sequence[tuple[str, float]]],
    theirs: Sequence[Sequence[tuple[str, float]]],
) -> Check:
    """The largest difference of similarities at equal ranks: ids may swap where two nearly tie."""
    pairs = [
        (a, b)
        for one, other in zip(ours, theirs, strict=True)
        for a, b in zip(one, other, strict=True)
    ]
    worst = max(abs(a[1] - b[1]) for a, b in pairs)
    return Check.at_most(f"nearest, {count}", "difference of similarities", worst, 1e-5)


def _adds(ours: ExperienceMemory, theirs: NaiveMemory | None, count: int) -> list[Timing]:
    made = iter(experience(number, config=CONFIG) for number in range(count, count + 2 * ADDS + 4))
    arms: dict[str, Callable[[], object]] = {"ours": lambda: ours.add(next(made))}
    if theirs:
        arms["naive"] = lambda: theirs.add(next(made))
    samples = interleave(arms, warmup=1, runs=ADDS)
    return [
        timed(
            f"add, {count}",
            arm,
            each,
            adds_per_second=round(1e3 * len(each.ms) / sum(each.ms), 1),
        )
        for arm, each in samples.items()
    ]
