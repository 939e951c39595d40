"""A run's figures and traces as one HTML file without scripts; every text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

from pixelis_fast.eval.intervals import relative_gain

Json = dict[str, Any]
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)
STYLE = (
    "main{max-width:1200px} table{margin-bottom:20px} .frame circle{fill:var(--mark);stroke:#fff;"
    "stroke-width:3} .trace>summary{font-size:15px}"
)
CHAIN_ROWS = (
    ("visfid", "visual fidelity"),
    ("length", "calls per chain"),
    ("validity", "valid calls"),
    ("rapr", "RaPR"),
    ("racpr", "RaCPR"),
)
TRACK_ROWS = (("hota", "HOTA of tracks"), ("idf1", "IDF1 of tracks"))
EMPTY = "–"


@dataclass(frozen=True)
class Told:
    """One arm's answer to a case, and its trace as HTML."""

    arm: str
    answer: str | None
    score: float
    status: str
    trace: str


@dataclass(frozen=True)
class CaseTraces:
    """What a case's part of the report shows."""

    id: str
    question: str
    truth: str
    told: tuple[Told, ...]


def report_html(results: Json, traces: Iterable[CaseTraces]) -> str:
    viewer = (files("pixelis_fast.serve") / "viewer" / "viewer.css").read_text(encoding="utf-8")
    name = escape(results["name"])
    parts = [score_table(results), chain_table(results), latency_table(results)]
    told = "".join(case_html(case) for case in traces)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="content-security-policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}</title><style>{viewer}{STYLE}</style></head><body><main>"
        f"<h1>{name}: {results['cases']} questions, seeds {escape(str(results['seeds']))}</h1>"
        f"{''.join(parts)}<h2>Traces</h2>{told}</main></body></html>\n"
    )


def score_table(results: Json) -> str:
    """Scores by category, with the relative gain (ours - baseline) / baseline."""
    arms, baseline = results["arms"], results["baseline"]
    keys = dict.fromkeys(key for arm in arms.values() for key in arm["scores"])
    heads = ["score"]
    for name in arms:
        heads += [name] if name == baseline else [name, f"gain over {baseline}"]
    rows = [[key, *_score_cells(arms, baseline, key)] for key in keys]
    intervals: list[str] = ["95 % interval over samples"]
    for name, arm in arms.items():
        gain = [] if name == baseline else [difference(arm["gain"]["difference"])]
        intervals += [interval(arm["over_samples"]), *gain]
    return table(heads, [*rows, intervals, *_seed_row(results)])


def _score_cells(arms: Json, baseline: str, key: str) -> list[str]:
    base = arms[baseline]["scores"].get(key)
    cells = []
    for name, arm in arms.items():
        score = arm["scores"].get(key)
        cells.append(share(score))
        if name != baseline:
            cells.append(gain(score, base))
    return cells


def _seed_row(results: Json) -> list[list[str]]:
    if len(results["seeds"]) < 2:
        return []
    row = ["95 % interval over seeds"]
    for name, arm in results["arms"].items():
        row += [interval(arm["over_seeds"])] + [""] * (name != results["baseline"])
    return [row]


def chain_table(results: Json) -> str:
    arms = results["arms"]
    rows = [
        [label, *(number(arm["chains"][key]) for arm in arms.values())] for key, label in CHAIN_ROWS
    ]
    operations = dict.fromkeys(key for arm in arms.values() for key in arm["grounding"])
    rows += [
        [f"evidence of {key}", *(number(arm["grounding"].get(key)) for arm in arms.values())]
        for key in operations
    ]
    if any(arm["tracking"] for arm in arms.values()):
        rows += [
            [label, *(number((arm["tracking"] or {}).get(key)) for arm in arms.values())]
            for key, label in TRACK_ROWS
        ]
    statuses = dict.fromkeys(key for arm in arms.values() for key in arm["statuses"])
    rows += [
        [f"ended: {key}", *(str(arm["statuses"].get(key, 0)) for arm in arms.values())]
        for key in statuses
    ]
    return table(["chains", *arms], rows)


def latency_table(results: Json) -> str:
    """p50 / p90 / p99 per stage."""
    arms = results["arms"]
    stages = dict.fromkeys(stage for arm in arms.values() for stage in arm["latency_ms"])
    rows = [
        [stage, *(percentiles(arm["latency_ms"].get(stage)) for arm in arms.values())]
        for stage in stages
    ]
    return table(["milliseconds, p50 / p90 / p99", *arms], rows)


def case_html(case: CaseTraces) -> str:
    told = "".join(told_html(each) for each in case.told)
    return (
        f'<section class="card"><h3>{escape(case.id)}</h3><p>{escape(case.question)}</p>'
        f'<p class="answer">{escape(case.truth)}</p>{told}</section>'
    )


def told_html(told: Told) -> str:
    kind = "good" if told.score >= 0.5 else "bad"
    answer = EMPTY if told.answer is None else told.answer
    return (
        '<details class="trace"><summary>'
        f'<span class="chip {kind}">{told.score:.2f}</span> {escape(told.arm)}: '
        f"{escape(answer)} ({escape(told.status)})</summary>{told.trace}</details>"
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """First column left, figures right."""
    head = "".join(_cell("th", text, place) for place, text in enumerate(heads))
    body = "".join(
        f"<tr>{''.join(_cell('td', text, place) for place, text in enumerate(row))}</tr>"
        for row in rows
    )
    return (
        f'<section class="card"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></section>"
    )


def _cell(tag: str, text: str, place: int) -> str:
    kind = ' class="figure"' if place else ""
    return f"<{tag}{kind}>{escape(text)}</{tag}>"


def share(value: float | None) -> str:
    return EMPTY if value is None else f"{100 * value:.2f} %"


def number(value: float | None) -> str:
    return EMPTY if value is None else f"{value:.3f}"


def interval(row: Json) -> str:
    return f"{100 * row['low']:.2f} to {100 * row['high']:.2f} %"


def gain(score: float | None, base: float | None) -> str:
    """Relative."""
    if score is None or base is None:
        return EMPTY
    relative = relative_gain(score, base)
    return EMPTY if relative is None else f"{100 * relative:+.2f} %"


def difference(row: Json) -> str:
    return f"{100 * row['low']:+.2f} to {100 * row['high']:+.2f} points"


def percentiles(row: Json | None) -> str:
    if row is None:
        return EMPTY
    return " / ".join(f"{value:.1f}" for value in row.values())
