"""Writes measurements down, for `--record` only: bench/RESULTS.md and bench/results/<device>/.

One section per device, one entry per command, day and commit; recording the same again replaces
its own entry and nothing else. A document may name its `variant`, such as an ablation: then its
JSON lies beside the benchmark's own.
"""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent
TITLE = "# Results\n\nWritten by `--record`; every entry names its machine, command and commit.\n"


def write_results(document: dict[str, Any], *, folder: Path = BENCH) -> Path:
    """Saves the document as JSON beside the device's others and puts its table in RESULTS.md."""
    device = results_folder(document, folder=folder)
    (device / f"{file_stem(document)}.json").write_text(json.dumps(document, indent=1) + "\n")
    page = folder / "RESULTS.md"
    text = page.read_text() if page.exists() else TITLE
    heading = f"### {document['command']} · {date.today().isoformat()} · {document['commit']}"
    section = f"## {document['machine']['slug']}"
    page.write_text(placed(text, section=section, heading=heading, body=entry(document)))
    return page


def file_stem(document: dict[str, Any]) -> str:
    return "-".join(filter(None, (document["bench"], document.get("variant", ""))))


def results_folder(document: dict[str, Any], *, folder: Path = BENCH) -> Path:
    device = folder / "results" / document["machine"]["slug"]
    device.mkdir(parents=True, exist_ok=True)
    return device


def placed(text: str, *, section: str, heading: str, body: str) -> str:
    """`text` with the entry at the end of its section; an entry with the same heading goes."""
    sections = _split(text, "## ")
    if not any(block.splitlines()[0] == section for block in sections):
        sections.append(section + "\n")
    return "\n".join(
        _with_entry(block, heading, body)
        if block.splitlines()[0] == section
        else block.rstrip() + "\n"
        for block in sections
    )


def _with_entry(section: str, heading: str, body: str) -> str:
    entries = _split(section, "### ")
    kept = [e.rstrip() + "\n" for e in entries if e.splitlines()[0] != heading]
    return "\n".join([*kept, f"{heading}\n\n{body.rstrip()}\n"])


def _split(text: str, mark: str) -> list[str]:
    """Blocks that start at a line beginning with `mark`; what stands before is the first block."""
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith(mark):
            blocks.append([])
        blocks[-1].append(line)
    return ["\n".join(block) + "\n" for block in blocks if any(line.strip() for line in block)]


def entry(document: dict[str, Any]) -> str:
    """Machine line, table of cases, checks in one line, goals, notes."""
    machine = document["machine"]
    device = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
    versions = ", ".join(f"{name} {v}" for name, v in machine["versions"].items() if v[0].isdigit())
    lines = [
        f"{device}, {machine['threads']} thread(s), load {machine['load_average_1m']}; "
        f"Python {machine['python']}, {versions}.",
        "",
        "| case | arm | p20 ms | p50 ms | p80 ms | p90 ms | p99 ms | n | ratio |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
        *_case_rows(document),
        "",
        f"Equal work: {'yes' if document['equal'] else 'NO: ' + '; '.join(document['failed'])} "
        f"({len(document['checks'])} checks). Ratios against: {document['baseline']}.",
    ]
    for goal in document["goals"]:
        word = "met" if goal["met"] else "missed"
        lines.append(
            f"Goal {word}: {goal['goal']}, target {goal['target']}, value {goal['value']}."
        )
    lines += [f"Note: {note}." for note in document["notes"]]
    return "\n".join(lines + _extra_tables(document))


def _case_rows(document: dict[str, Any]) -> list[str]:
    rows = []
    for case in document["cases"]:
        ratio = document["ratios"].get(case["name"])
        shown = f"{ratio:.2f}" if ratio and case["arm"] == document["ours"] else ""
        points = " | ".join(f"{case[f'p{p}_ms']:.2f}" for p in (20, 50, 80, 90, 99))
        rows.append(f"| {case['name']} | {case['arm']} | {points} | {case['n']} | {shown} |")
    return rows


def _extra_tables(document: dict[str, Any]) -> list[str]:
    """A benchmark's own tables: {"title", "columns", "rows"} under the document's `tables`."""
    lines: list[str] = []
    for table in document.get("tables", []):
        lines += ["", f"{table['title']}", "", "| " + " | ".join(table["columns"]) + " |"]
        lines.append("|---" * len(table["columns"]) + "|")
        lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in table["rows"]]
    return lines
