"""The format for data of one's own: one JSON object per question.

    {"id": "q1", "media": ["a.jpg"], "question": "What does the sign say?", "answer": "KX42",
     "steps": [{"thought": "I look closer.", "tool": "zoom",
                "arguments": {"media": 0, "box": [412, 80, 530, 140]}}],
     "coordinates": "pixels"}

Optional: task, answer_kind (exact, number, text, box, span), answer_thought, difficulty, and per
step observation and kind (step, trap, correction). Tools and arguments are the agent's own six;
coordinates say what boxes and points are in: "units" of 0..1000 (the default), "pixels" of the
original, or "shares" of its sides.
"""

from __future__ import annotations

from typing import Any

from pixelis_fast.data.convert_media import StoredMedia
from pixelis_fast.data.convert_types import Source, UnsupportedError
from pixelis_fast.data.convert_views import View
from pixelis_fast.data.cota import CotaRecord, CotaTurn, checked
from pixelis_fast.data.rows import Row
from pixelis_fast.schemas import MAX_COORDINATE, TOOL_SCHEMAS
from pixelis_fast.types import AnswerKind, ToolCall

COORDINATES = ("units", "pixels", "shares")
KINDS = tuple(kind.value for kind in AnswerKind)


def to_record(source: Source) -> CotaRecord:
    row = source.row
    media = [source.media.add_file(source.root / name) for name in row.texts("media")]
    steps = row.values.get("steps", [])
    if not isinstance(steps, list):
        raise row.error("steps", "a list", steps)
    return CotaRecord(
        id=row.text("id"),
        task=_optional(row, "task", "generic"),
        media=tuple(each.path for each in media),
        question=row.text("question"),
        answer=row.text("answer"),
        answer_kind=AnswerKind(_one_of(row, "answer_kind", KINDS)),
        turns=tuple(_turn(row, number, step, media) for number, step in enumerate(steps)),
        answer_thought=_optional(row, "answer_thought", ""),
        difficulty=row.number("difficulty") if "difficulty" in row.values else 0.0,
        source="generic",
    )


def _turn(row: Row, number: int, step: Any, media: list[StoredMedia]) -> CotaTurn:
    inner = Row(f"{row.where}: steps[{number}]", step if isinstance(step, dict) else {})
    arguments = inner.values.get("arguments")
    if not isinstance(arguments, dict):
        raise inner.error("arguments", "an object", arguments)
    tool = inner.text("tool")
    if tool not in TOOL_SCHEMAS:
        raise UnsupportedError(f"operation: expected one of {', '.join(TOOL_SCHEMAS)}, got {tool}")
    coordinates = _one_of(row, "coordinates", COORDINATES)
    call = ToolCall(tool, _in_units(arguments, coordinates, media))
    kind = _optional(inner, "kind", "step")
    return CotaTurn(
        _optional(inner, "thought", ""),
        call if kind == "trap" else checked(call),
        inner.values.get("observation"),
        kind,
    )


def _in_units(
    arguments: dict[str, Any], coordinates: str, media: list[StoredMedia]
) -> dict[str, Any]:
    if coordinates == "units" or not {"box", "point"} & arguments.keys():
        return arguments
    index = arguments.get("media")
    if not isinstance(index, int) or not 0 <= index < len(media):
        raise ValueError(f"media: expected 0 to {len(media) - 1}, got {index!r}")
    size = media[index].size if coordinates == "pixels" else (1, 1)
    found = dict(arguments)
    if "box" in arguments:
        view = View(index, media[index].size).part(arguments["box"], pixels=coordinates == "pixels")
        found["box"] = list(view.box)
    if "point" in arguments:
        x, y = arguments["point"]
        found["point"] = [round(MAX_COORDINATE * v / s) for v, s in zip((x, y), size, strict=True)]
    return found


def _optional(row: Row, name: str, default: str) -> str:
    return row.text(name) if row.values.get(name) else default


def _one_of(row: Row, name: str, allowed: tuple[str, ...]) -> str:
    """The first is the default."""
    return row.choice(name, allowed) if name in row.values else allowed[0]
