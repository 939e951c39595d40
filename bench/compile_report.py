"""What the compile gate found as tables and as bench/results/compile/triton-<version>.json.

Machine code does not depend on the machine that compiled it, so its results have a folder and a
section of their own, `compile`, keyed by triton's version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import triton
from rich.markup import escape
from rich.table import Table

from bench.compile_cases import Outcome
from bench.harness import Goal
from bench.record import BENCH, TITLE, placed
from pixelis_fast.kernels.offline import CLAIMS, Compiled

TENSOR_CORES = tuple(
    proof for claim in ("mma", "hgmma", "tcgen05") for proof in CLAIMS[claim].values()
)
TMA = {"UTMALDG": "in", "UTMASTG": "out", "UTMAREDG": "added"}
FIGURES = ("regs", "spills", "KB", "tensor cores", "TMA", "s")
"""Registers per thread, local loads and stores, shared memory, instructions, compile time."""


def goal(done: Sequence[Outcome]) -> Goal:
    sound = sum(not outcome.problems for outcome in done)
    what = "configurations x targets that compile, spill nothing and hold what they claim"
    return Goal.at_least(what, len(done), sound)


def outcome_table(done: Sequence[Outcome]) -> Table:
    """One row per case and target, the unsound ones in red."""
    table = Table(title=f"compile: triton {triton.__version__}", title_justify="left")
    for number, column in enumerate(("case", "target", *FIGURES)):
        table.add_column(column, justify="right" if number > 1 else "left", overflow="fold")
    for outcome in done:
        cells = figures([outcome.compiled]) if outcome.compiled else []
        name = escape(outcome.job.title)
        style = "red" if outcome.problems else None
        table.add_row(name, outcome.job.target, *cells, style=style)
    return table


def summary_table(done: Sequence[Outcome]) -> dict[str, Any]:
    """One row per kernel and target: the largest figures of its configurations, how many hold."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in done:
        groups.setdefault((outcome.kernel, outcome.job.target), []).append(outcome)
    rows = []
    for (kernel, target), group in groups.items():
        compiled = [outcome.compiled for outcome in group if outcome.compiled]
        sound = sum(not outcome.problems for outcome in group)
        cells = figures(compiled) if compiled else [""] * len(FIGURES)
        rows.append([kernel, target, *cells, f"{sound} of {len(group)}"])
    title = "Per kernel, the largest figure over its configurations:"
    return {"title": title, "columns": ["kernel", "target", *FIGURES, "sound"], "rows": rows}


def figures(compiled: Sequence[Compiled]) -> list[str]:
    """The largest of each of FIGURES."""
    return [
        str(max(c.registers for c in compiled)),
        str(max(c.spills for c in compiled)),
        f"{max(c.shared_bytes for c in compiled) / 1024:.0f}",
        _most(compiled, dict.fromkeys(TENSOR_CORES, "")),
        _most(compiled, TMA),
        f"{max(c.seconds for c in compiled):.1f}",
    ]


def _most(compiled: Sequence[Compiled], names: Mapping[str, str]) -> str:
    """ "8 HGMMA"; "6 in, 1 out"."""
    most = {name: max(c.instructions.get(name, 0) for c in compiled) for name in names}
    return ", ".join(f"{count} {names[name] or name}" for name, count in most.items() if count)


def write_compile_results(document: dict[str, Any], *, folder: Path = BENCH) -> Path:
    """The document as JSON and its summary in RESULTS.md."""
    results = folder / "results" / "compile"
    results.mkdir(parents=True, exist_ok=True)
    version = f"triton-{triton.__version__}"
    (results / f"{version}.json").write_text(json.dumps(document, indent=1) + "\n")
    page = folder / "RESULTS.md"
    text = page.read_text() if page.exists() else TITLE
    day = date.today().isoformat()
    heading = f"### {document['command']} · {version} · {day} · {document['commit']}"
    page.write_text(placed(text, section="## compile", heading=heading, body=entry(document)))
    return page


def entry(document: dict[str, Any]) -> str:
    [table], [met] = document["tables"], document["goals"]
    failed = document["failed"]
    return "\n".join(
        [
            "Built without a GPU; seconds are of compiling, not of running.",
            "",
            table["title"],
            "",
            "| " + " | ".join(table["columns"]) + " |",
            "|---" * len(table["columns"]) + "|",
            *("| " + " | ".join(row) + " |" for row in table["rows"]),
            "",
            f"Goal {'met' if met['met'] else 'missed'}: {met['goal']}, {met['value']} of "
            f"{met['target']}.",
            *(f"- {line}" for line in failed),
        ]
    )
