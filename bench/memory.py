"""The experience memory: how fast it is, and what it takes to lose something.

Speed at several sizes beside lines of JSON with a matrix. Then writers killed at random points,
logs damaged at random places, full disks, a second writer, and a tenant that poisons its own
memory: each prints what was lost, and fails when that is anything the memory promised to keep.

    python bench/memory.py --quick
    python bench/memory.py --kills 200
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    import rooted  # noqa: F401

import numpy as np

from bench.flags import add_seed
from bench.harness import (
    Check,
    Goal,
    Options,
    Report,
    finish,
    parse_options,
    progress_bar,
    rich_table,
)
from bench.memory_faults import (
    Full,
    ballast,
    damage_tails,
    file_size_limit,
    fill_up,
    second_writer,
    small_disk,
    write_and_kill,
)
from bench.memory_kills import kill_writers
from bench.memory_poison import poison
from bench.memory_speed import measure
from pixelis_fast.voting import VoteKind, VotingConfig

ARMS = ("ours", "naive")
SIZES, QUICK_SIZES = (10_000, 100_000), (2_000,)
NAIVE_UP_TO = 10_000
"""The other arm copies its matrix with every add; above this it is not worth the wait."""
KILLS, QUICK_KILLS = 200, 8
DAMAGES, QUICK_DAMAGES = 300, 12
LOGGED_ADDS = 30
WRONG_SHARE = 0.3
QUERIES, QUICK_QUERIES = 240, 60
SEEDS = 3
MAX_NEAREST_MS, MAX_ADD_MS, MAX_REBUILD_MS = 50.0, 50.0, 10_000.0
Facts = dict[str, Any]


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kills", type=int, help=f"{KILLS}, or {QUICK_KILLS} with --quick")
    add_seed(parser)


def speed(report: Report, options: Options) -> None:
    for size in QUICK_SIZES if options.quick else SIZES:
        found = measure(size, naive=size <= NAIVE_UP_TO and "naive" in options.arms)
        report.timings += found.timings
        report.checks += found.checks


def speed_goals(report: Report) -> list[Goal]:
    """At the largest size, in processor time: shared cores stretch the rest."""
    p50 = {(t.name, t.arm): t.extra["cpu_p50_ms"] for t in report.timings}
    size = max(int(name.split()[-1]) for name, _ in p50)
    limits = {
        ("nearest", "ours"): MAX_NEAREST_MS,
        ("add", "ours"): MAX_ADD_MS,
        ("start", "ours, rebuilt"): MAX_REBUILD_MS,
    }
    return [
        Goal.at_most(f"{what} ({arm}), {size}: cpu ms", limit, p50[f"{what}, {size}", arm])
        for (what, arm), limit in limits.items()
    ]


def kills(report: Report, options: Options, scratch: Path) -> Facts:
    count = options.extra.kills or (QUICK_KILLS if options.quick else KILLS)
    with progress_bar() as bar:
        task = bar.add_task("kills", total=count)
        found = kill_writers(
            scratch, count=count, seed=options.extra.seed, tick=lambda: bar.advance(task)
        )
    report.checks += [
        Check.same("kills", "adds that returned and are lost", found.lost, []),
        Check.same("kills", "gaps in what is stored", found.gaps, []),
        Check.same("kills", "problems of truth and index", found.problems, []),
    ]
    return {
        "kills": found.count,
        "acknowledged": found.acknowledged,
        "lost": len(found.lost),
        "stored_unacknowledged": found.unacknowledged,
        "killed_before_first_add": found.without_progress,
        "notes": sorted(set(found.notes)),
        "open_and_check_p50_ms": round(float(np.median(found.open_ms)), 1),
    }


def tails(report: Report, options: Options, scratch: Path) -> Facts:
    written = write_and_kill(scratch / "written", adds=LOGGED_ADDS)
    count = QUICK_DAMAGES if options.quick else DAMAGES
    found = damage_tails(written, scratch / "copy", count=count, seed=options.extra.seed)
    report.checks += [
        Check.same(
            "damaged logs", "adds before the damage that are lost", found.lost_before_damage, 0
        ),
        Check.same("damaged logs", "losses without a note", found.silent_losses, 0),
        Check.same("damaged logs", "contradictions afterwards", found.problems, 0),
    ]
    return vars(found)


def full_disks(report: Report, scratch: Path) -> Facts:
    found = {"file size limit": fill_up(scratch / "limited", file_size_limit(2_000_000))}
    if os.geteuid() == 0:
        with small_disk(scratch / "disk", size_bytes=8 << 20) as disk:
            found["full file system"] = fill_up(disk / "memory", ballast(disk, leave_bytes=1 << 20))
    else:
        report.notes.append("full file system: not tried, mounting one takes root")
    for name, got in found.items():
        report.checks += _full_checks(name, got)
    return {name: vars(got) | {"message": _placeless(got.message)} for name, got in found.items()}


def _placeless(message: str) -> str:
    """Without the folder's name."""
    return message[message.index("expected") :]


def _full_checks(name: str, got: Full) -> list[Check]:
    return [
        Check.same(name, "found after the error", got.found_after, got.stored),
        Check.same(name, "kept after opening again", got.kept_after, got.stored),
        Check.same(name, "problems", got.problems, ()),
        Check.same(name, "goes on with room", got.goes_on, True),
        Check.at_least(name, "adds before it", got.stored, 1),
    ]


def writers(report: Report, scratch: Path) -> Facts:
    told, holder = second_writer(scratch)
    names_holder = f"got process {holder} " in told
    report.checks.append(
        Check.same("two writers", "the second is told of the first", names_holder, True)
    )
    return {"names_the_first": names_holder}


def poisoning(report: Report, options: Options, scratch: Path) -> Facts:
    """Accuracy of pseudo-labels, mean over seeds: clean, poisoned, and without any memory."""
    arms = {
        "memory": VotingConfig(),
        "memory, prior 0": VotingConfig(neighbour_prior=0.0),
        "memory, prior 1": VotingConfig(neighbour_prior=1.0),
        "no retrieval": VotingConfig(kind=VoteKind.NO_RETRIEVAL),
        "answer majority": VotingConfig(kind=VoteKind.MAJORITY),
    }
    seeds = 1 if options.quick else SEEDS
    facts: Facts = {"wrong_share": WRONG_SHARE, "seeds": seeds}
    for name, config in arms.items():
        runs = [
            poison(
                scratch / f"{name}-{seed}",
                wrong_share=WRONG_SHARE,
                queries=QUICK_QUERIES if options.quick else QUERIES,
                seed=options.extra.seed + seed,
                config=config,
            )
            for seed in range(seeds)
        ]
        unchanged = all(run.others_unchanged for run in runs)
        report.checks.append(Check.same(name, "votes of another tenant unchanged", unchanged, True))
        facts[name] = {
            when: {
                what: round(float(np.mean([getattr(getattr(run, when), what) for run in runs])), 3)
                for what in ("accuracy", "error_when_learning", "learned")
            }
            for when in ("clean", "poisoned")
        }
    gain = facts["memory"]["poisoned"]["accuracy"] - facts["no retrieval"]["clean"]["accuracy"]
    goal = "accuracy that a poisoned memory adds to none"
    report.goals.append(Goal.at_least(goal, 0.0, round(gain, 3)))
    return facts


def torture(report: Report, options: Options) -> None:
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        report.extra = {
            "kills": kills(report, options, scratch / "kills"),
            "damaged_logs": tails(report, options, scratch / "tails"),
            "full_disks": full_disks(report, scratch / "full"),
            "two_writers": writers(report, scratch / "writers"),
            "poisoning": poisoning(report, options, scratch / "poison"),
        }
    rows = [
        [f"{part}: {name}", f"{value}"]
        for part, facts in report.extra.items()
        for name, value in facts.items()
    ]
    report.tables.append(
        rich_table({"title": "reliability", "columns": ["what", "found"], "rows": rows})
    )


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(__doc__, arms=ARMS, add=add_flags, argv=argv)
    report = Report("memory", options, ours="ours", baseline="naive")
    speed(report, options)
    report.goals = speed_goals(report)
    torture(report, options)
    return finish(report, options)


if __name__ == "__main__":
    sys.exit(main())
