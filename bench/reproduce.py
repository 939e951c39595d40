"""The method's table: `pixelis reproduce` with its rows and goals in the form of every benchmark.

Trains and measures what is not there yet, which takes days at the budget "cpu"; `--collect` takes
the rows that a folder has, finished or not, and trains nothing. Arms are named as their folders
are, `--threads` are of what is made now, and a goal says how many seeds it rests on.

    python bench/reproduce.py --quick
    python bench/reproduce.py --collect --out runs/reproduce --record
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

if __name__ == "__main__":
    import rooted  # noqa: F401

from bench.harness import (
    STDERR,
    Check,
    Goal,
    Options,
    Report,
    Timing,
    finish,
    parse_options,
)
from pixelis_fast.reproduce.budget import BUDGETS, Budget
from pixelis_fast.reproduce.rows import Row, slug
from pixelis_fast.reproduce.runner import Reproduction
from pixelis_fast.reproduce.table import by_arm, goals, save, sheets

CASE = "one question"
OUT = Path("runs/reproduce")
ARMS = tuple(
    dict.fromkeys(slug(arm) for each in BUDGETS.values() for arm in Reproduction(OUT, each).arms())
)


def budget_of(options: Options) -> Budget:
    """The command's, with this benchmark's threads."""
    name = options.extra.budget or ("quick" if options.quick else "cpu")
    if options.quick and name != "quick":
        raise SystemExit(f"--budget: expected quick with --quick, got {name}")
    budget = replace(BUDGETS[name], threads=options.threads)
    if options.device != budget.device:
        raise SystemExit(
            f"--device: expected {budget.device}, where the budget {name} trains, "
            f"got {options.device}"
        )
    seeds = options.extra.seeds
    return budget if seeds is None else replace(budget, seeds=tuple(range(seeds)))


def rows_of(options: Options, budget: Budget, out: Path) -> list[Row]:
    """Of the chosen arms, made or only collected."""
    reproduction = Reproduction(out, budget)
    chosen = [arm for arm in reproduction.arms() if slug(arm) in options.arms]
    if not chosen:
        raise SystemExit(f"--arms: expected some of the budget's, got {', '.join(options.arms)}")
    if options.extra.collect:
        try:
            return reproduction.collect(arms=chosen)
        except ValueError as error:
            raise SystemExit(f"--collect: {error}") from error
    return reproduction.run(arms=chosen, on_row=partial(keep, reproduction, budget, out))


def keep(reproduction: Reproduction, budget: Budget, out: Path, row: Row) -> None:
    STDERR.print(f"{row['arm']}, seed {row['seed']}", markup=False)
    save(reproduction.collect_all, budget, out)


def report_of(options: Options, budget: Budget, rows: Sequence[Row]) -> Report:
    report = Report("reproduce", options, ours="cc-rft", baseline="sft")
    arms = by_arm(rows)
    for arm, found in arms.items():
        latency_ms = tuple(1e3 * row["latency_s"] for row in found)
        report.timings.append(Timing(CASE, arm, latency_ms, {"seeds": len(found)}))
    for row in rows:
        asked = f"questions of {row['arm']}, seed {row['seed']}"
        report.checks.append(Check.same(CASE, asked, row["count"], budget.test))
    report.goals = [
        Goal(f"{each.goal} ({each.rests_on})", each.target, rounded(each.value), each.met)
        for each in goals(rows, budget)
    ]
    wanted = Reproduction(OUT, budget).arms()
    seeds = {arm: len(arms.get(arm, ())) for arm in wanted}
    found = sheets(rows, budget)
    report.tables += [each.rich() for each in found]
    tables = [asdict(each) for each in found]
    report.extra = {"budget": asdict(budget), "seeds": seeds, "rows": list(rows), "tables": tables}
    report.notes += notes_of(options, budget, rows, seeds)
    return report


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def notes_of(
    options: Options, budget: Budget, rows: Sequence[Row], seeds: dict[str, int]
) -> Iterator[str]:
    """What a reader must know before believing a number."""
    yield "a sample of the latency is one seed's median over its questions"
    if options.extra.collect:
        yield "rows as they were found: made earlier, maybe by other commits; nothing ran now"
    if (threads := sorted({row["threads"] for row in rows})) != [options.threads]:
        yield f"rows were made with {', '.join(map(str, threads))} threads"
    if options.quick or options.extra.budget == "quick":
        yield "the budget quick proves that every arm runs; its numbers mean nothing"
    if none := [arm for arm, count in seeds.items() if not count]:
        yield f"not measured: {'; '.join(none)}"
    if few := [f"{arm} ({n})" for arm, n in seeds.items() if 0 < n < len(budget.seeds)]:
        yield f"fewer than {len(budget.seeds)} seeds: {'; '.join(few)}"


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, help=f"{OUT}; quick: a folder that is removed")
    parser.add_argument("--budget", choices=tuple(BUDGETS), help="cpu, or quick with --quick")
    parser.add_argument("--seeds", type=int, choices=range(1, 10), help="the budget's without")
    parser.add_argument("--collect", action="store_true", help="only rows that are there")


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(__doc__, arms=ARMS, add=add_flags, argv=argv)
    if options.ablate or options.runs is not None:
        raise SystemExit("--ablate, --runs: expected neither; ablations are arms, runs are --seeds")
    budget = budget_of(options)
    with ExitStack() as stack:
        out = options.extra.out or OUT
        if options.quick and options.extra.out is None and not options.extra.collect:
            out = Path(stack.enter_context(TemporaryDirectory()))
        rows = rows_of(options, budget, out)
    return finish(report_of(options, budget, rows), options)


if __name__ == "__main__":
    sys.exit(main())
