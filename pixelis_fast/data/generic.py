"""The format for data of one's own: one JSON object per question.

    {"id": "q1", "media": ["a.jpg"], "question": "What does the sign say?", "answer": "KX42",
     "steps": [{"thought": "I look closer.", "tool": "zoom",
                "arguments": {"media": 0, "box": [412, 80, 530, 140]}}],
     "coordinates": "pixels"}

Optional: task, answer_kind (exact, number, text, box, span), answer_thought, difficulty, and per
step observation and kind (step, trap, correction). Tools and arguments are the agent's own six;
coordinates say what boxes and points are in, an answer that is a box included: "units" of 0..1000
(the default), "pixels" of the original, or "shares" of its sides, of a picture turned upright as
its EXIF orientation says.
"""

from __future__ import annotations

import json
from typing import Any

from pixelis_fast.data.convert_media import StoredMedia
from pixelis_fast.data.convert_messages import is_number
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
        answer=_answer(row, media),
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
    call = ToolCall(tool, _in_units(inner, arguments, coordinates, media))
    kind = _optional(inner, "kind", "step")
    observation = inner.values.get("observation")
    return CotaTurn(
        _optional(inner, "thought", ""),
        call if kind == "trap" else checked(call),
        None if observation is None else inner.text("observation"),
        kind,
    )


def _in_units(
    step: Row, arguments: dict[str, Any], coordinates: str, media: list[StoredMedia]
) -> dict[str, Any]:
    if coordinates == "units" or not {"box", "point"} & arguments.keys():
        return arguments
    index = arguments.get("media")
    if not isinstance(index, int) or not 0 <= index < len(media):
        raise step.error("media", f"0 to {len(media) - 1}", index)
    found = dict(arguments)
    if "box" in arguments:
        box = _numbers(step, "box", arguments["box"], 4)
        found["box"] = _box_in_units(box, coordinates, media[index])
    if "point" in arguments:
        point = _numbers(step, "point", arguments["point"], 2)
        size = media[index].size if coordinates == "pixels" else (1, 1)
        found["point"] = [round(MAX_COORDINATE * v / s) for v, s in zip(point, size, strict=True)]
    return found


def _answer(row: Row, media: list[StoredMedia]) -> str:
    """As it stands, but for a box in other coordinates than units."""
    answer, coordinates = row.text("answer"), _one_of(row, "coordinates", COORDINATES)
    is_box = _one_of(row, "answer_kind", KINDS) == AnswerKind.BOX.value
    if not is_box or coordinates == "units":
        return answer
    if len(media) != 1:
        raise row.error("answer", "units, or one picture that it is a box of", answer)
    try:
        values = json.loads(answer)
    except json.JSONDecodeError:
        values = answer
    box = _numbers(row, "answer", values, 4)
    return str(_box_in_units(box, coordinates, media[0]))


def _numbers(row: Row, name: str, values: Any, count: int) -> list[float]:
    shown = {2: "two", 4: "four"}[count]
    if not isinstance(values, list) or len(values) != count or not all(map(is_number, values)):
        raise row.error(name, f"{shown} numbers", values)
    return values


def _box_in_units(box: list[float], coordinates: str, media: StoredMedia) -> list[int]:
    return list(View(0, media.size).part(box, pixels=coordinates == "pixels").box)


def _optional(row: Row, name: str, default: str) -> str:
    return row.text(name) if row.values.get(name) else default


def _one_of(row: Row, name: str, allowed: tuple[str, ...]) -> str:
    """The first is the default."""
    return row.choice(name, allowed) if name in row.values else allowed[0]
