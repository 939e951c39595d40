"""Chain-of-Thought-Action records: one JSON object per line, media beside it.

A record is text and numbers only: thoughts, calls, what the tools said. It knows no tokens, so one
file serves every policy; data/traces.py turns it into trajectories. A crop that a call showed is
not stored: the call says which pixels it was, and the reader cuts them again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pixelis_fast.schemas import TOOL_SCHEMAS, parse_call
from pixelis_fast.trace import evidence_from_json
from pixelis_fast.types import AnswerKind, Evidence, Media, Sample, ToolCall

TURN_KINDS = ("step", "trap", "correction")
FILE_NAME = "records.jsonl"


class RecordError(ValueError):
    """A record that cannot be used; names file, line and field."""


@dataclass(frozen=True)
class CotaTurn:
    """One thought and its call, and what came back.

    Example:
        CotaTurn("i zoom in", ToolCall("zoom", {"media": 0, "box": [0, 0, 300, 300]}), "{…}")
    """

    thought: str
    call: ToolCall
    observation: str | None = None
    """The text the tool returned; None: the call is to be run when the trace is built."""
    kind: str = "step"
    """step; trap: a wrong call, shown and not imitated; correction: the call that mends it."""

    @property
    def is_imitated(self) -> bool:
        return self.kind != "trap"


@dataclass(frozen=True)
class CotaRecord:
    """One question with its chain and answer.

    Example:
        CotaRecord("read-7", "read", ("media/7.png",), "what does the sign say?", "KX42")
    """

    id: str
    task: str
    media: tuple[str, ...]
    """Paths relative to the file."""
    question: str
    answer: str
    answer_kind: AnswerKind = AnswerKind.EXACT
    turns: tuple[CotaTurn, ...] = ()
    answer_thought: str = ""
    difficulty: float = 0.0
    """0 easy … 1 hard; the curriculum's order."""
    evidence: tuple[Evidence, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        if not self.media or not self.question.strip() or not self.answer.strip():
            raise RecordError(f"record {self.id!r}: expected media, a question and an answer")
        if not (math.isfinite(self.difficulty) and 0 <= self.difficulty <= 1):
            raise RecordError(
                f"record {self.id!r}: difficulty: expected 0..1, got {self.difficulty}"
            )
        if wrong := [turn.kind for turn in self.turns if turn.kind not in TURN_KINDS]:
            raise RecordError(
                f"record {self.id!r}: kind: expected one of {TURN_KINDS}, got {wrong}"
            )

    def sample(self, media: tuple[Media, ...]) -> Sample:
        """The question as a policy is asked it, with its truth beside it."""
        return Sample(
            id=self.id,
            media=media,
            question=self.question,
            answer=self.answer,
            answer_kind=self.answer_kind,
            evidence=self.evidence,
        )


def write_records(path: Path, records: Sequence[CotaRecord]) -> None:
    """Writes the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text("".join(record_line(record) + "\n" for record in records))
    draft.replace(path)


def record_line(record: CotaRecord) -> str:
    return json.dumps(asdict(record), ensure_ascii=False, default=lambda enum: enum.value)


def read_records(path: Path) -> Iterator[CotaRecord]:
    """Every record of a file; RecordError names the line and field of the first that is wrong."""
    if not path.is_file():
        raise RecordError(f"records: expected a file, got {path}")
    with path.open() as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield record_from_json(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise RecordError(f"{path}:{number}: {describe(error)}") from error


def describe(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"expected the field {error}, got none"
    return str(error)


def record_from_json(row: dict[str, Any]) -> CotaRecord:
    return CotaRecord(
        id=str(row["id"]),
        task=str(row["task"]),
        media=_texts(row, "media"),
        question=_text(row, "question"),
        answer=_text(row, "answer"),
        answer_kind=AnswerKind(row.get("answer_kind", AnswerKind.EXACT.value)),
        turns=tuple(turn_from_json(turn) for turn in row.get("turns", ())),
        answer_thought=_text({"answer_thought": ""} | row, "answer_thought"),
        difficulty=float(row.get("difficulty", 0.0)),
        evidence=tuple(evidence_from_json(each) for each in row.get("evidence", ())),
        source=row.get("source", ""),
    )


def turn_from_json(row: dict[str, Any]) -> CotaTurn:
    """A trap may be any call; every other one must pass its tool's schema."""
    call, kind = ToolCall(**row["call"]), row.get("kind", "step")
    if kind != "trap":
        call = checked(call)
    observation = None if row.get("observation") is None else _text(row, "observation")
    return CotaTurn(_text(row, "thought"), call, observation, kind)


def _text(row: dict[str, Any], name: str) -> str:
    if not isinstance(row[name], str):
        raise ValueError(f"{name}: expected text, got {row[name]!r}")
    return row[name]


def _texts(row: dict[str, Any], name: str) -> tuple[str, ...]:
    value = row[name]
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"{name}: expected a list of texts, got {value!r}")
    return tuple(value)


def checked(call: ToolCall) -> ToolCall:
    """The call as the policy would write it; CallError says what its tool expects."""
    text = json.dumps({"name": call.operation, "arguments": call.arguments})
    return parse_call(text, TOOL_SCHEMAS)
