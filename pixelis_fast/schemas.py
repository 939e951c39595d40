"""The six tools' argument schemas, and the parser of one call.

Prompt, grammar, parser, data and server all read TOOL_SCHEMAS: a tool is described once. A call is
one JSON object, {"name": ..., "arguments": {...}}; what JSON schema cannot say (x0 < x1, start <
end) is checked here too. What depends on the media of a sample (does this index exist, does this
media have a time) is not known here: tools.py checks that.

Every CallError is one sentence, "expected ... got ...", written for the policy to read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

import jsonschema

from pixelis_fast.types import ToolCall

MAX_COORDINATE = 1000
MAX_MEDIA_INDEX = 63
MAX_MASK_INDEX = 999
MAX_TIME_S = 86_400
TIMES = ("time", "start", "end")
"""Arguments in seconds."""
MAX_QUERY_CHARS = 200
MAX_CALL_CHARS = 4096
"""Above every valid call; keeps a runaway generation from being parsed."""

EVENTS = ("change", "motion", "appearance", "text")

Schema = dict[str, Any]


class CallError(ValueError):
    """A call the tools cannot take; the message is one sentence for the policy."""


def _coordinates(count: int, description: str) -> Schema:
    item = {"type": "integer", "minimum": 0, "maximum": MAX_COORDINATE}
    return {
        "type": "array",
        "items": item,
        "minItems": count,
        "maxItems": count,
        "description": description,
    }


def _seconds(description: str) -> Schema:
    return {"type": "number", "minimum": 0, "maximum": MAX_TIME_S, "description": description}


_MEDIA = {
    "type": "integer",
    "minimum": 0,
    "maximum": MAX_MEDIA_INDEX,
    "description": "Index of the image, video or enlarged crop, from 0.",
}
_BOX = _coordinates(4, "[x0, y0, x1, y1] with x0 < x1 and y0 < y1.")
_POINT = _coordinates(2, "[x, y].")
_TIME = _seconds("Second of a video; leave out for an image.")
_MASK = {
    "type": "integer",
    "minimum": 0,
    "maximum": MAX_MASK_INDEX,
    "description": "Index of a mask that an earlier observation named.",
}
_EVENT = {"type": "string", "enum": list(EVENTS), "description": "What to look for."}
_QUERY = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_QUERY_CHARS,
    "description": "Words to look for, for the text event.",
}


def _tool(
    name: str, description: str, *, required: tuple[str, ...], **properties: Schema
) -> Schema:
    parameters: Schema = {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def _segment() -> Schema:
    """Segment is the one tool with a choice: exactly one of point and box."""
    description = "Mask of the object at a point or inside a box."
    tool = _tool(
        "segment",
        description,
        required=("media",),
        media=_MEDIA,
        point=_POINT,
        box=_BOX,
        time=_TIME,
    )
    tool["function"]["parameters"]["oneOf"] = [{"required": ["point"]}, {"required": ["box"]}]
    return tool


_TOOLS = (
    _tool(
        "zoom",
        "Show a part of an image or video frame, enlarged.",
        required=("media", "box"),
        media=_MEDIA,
        box=_BOX,
        time=_TIME,
    ),
    _segment(),
    _tool(
        "track",
        "Follow the object in a box through a video.",
        required=("media", "box", "start", "end"),
        media=_MEDIA,
        box=_BOX,
        start=_seconds("Second at which the box is given."),
        end=_seconds("Last second to follow; after start."),
    ),
    _tool(
        "read_text",
        "Read the text in an image or video frame, or inside a box of it.",
        required=("media",),
        media=_MEDIA,
        box=_BOX,
        time=_TIME,
    ),
    _tool(
        "localize",
        "Find when something happens in a video.",
        required=("media", "event"),
        media=_MEDIA,
        event=_EVENT,
        box=_BOX,
        time=_TIME,
        query=_QUERY,
    ),
    _tool(
        "properties",
        "Area, box, centre, colour and orientation of a mask.",
        required=("mask",),
        mask=_MASK,
    ),
)

TOOL_SCHEMAS: dict[str, Schema] = {tool["function"]["name"]: tool for tool in _TOOLS}


def argument_schema(tool: Schema) -> Schema:
    """The JSON schema of one tool's arguments object."""
    return tool["function"]["parameters"]


def parse_call(json_text: str, schemas: Mapping[str, Schema] = TOOL_SCHEMAS) -> ToolCall:
    """'{"name":"zoom","arguments":{...}}' -> ToolCall; CallError when a tool cannot take it."""
    call = _load_object(json_text)
    if set(call) != {"name", "arguments"}:
        raise CallError(f'expected the keys "name" and "arguments", got {_short(list(call))}')
    name, arguments = call["name"], call["arguments"]
    if not isinstance(name, str) or name not in schemas:
        raise CallError(f"expected one of the tools {', '.join(schemas)}, got {_short(name)}")
    _check_schema(name, arguments, schemas[name])
    _check_order(name, arguments)
    return ToolCall(name, arguments)


def format_call(call: ToolCall) -> str:
    """The compact JSON that the grammar produces and parse_call reads."""
    content = {"name": call.operation, "arguments": call.arguments}
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False)


def _load_object(json_text: str) -> dict[str, Any]:
    if len(json_text) > MAX_CALL_CHARS:
        raise CallError(f"expected at most {MAX_CALL_CHARS} characters, got {len(json_text)}")
    try:
        call = json.loads(
            json_text,
            parse_float=_finite_float,
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique_keys,
        )
    except json.JSONDecodeError as error:
        near = _short(json_text[max(error.pos - 10, 0) : error.pos + 10])
        raise CallError(f"expected JSON, got {error.msg.lower()} near {near}") from error
    except RecursionError as error:
        raise CallError("expected a flat JSON object, got one nested too deeply") from error
    if not isinstance(call, dict):
        raise CallError(f"expected a JSON object, got {_short(call)}")
    if any("\ud800" <= character <= "\udfff" for character in json.dumps(call, ensure_ascii=False)):
        # A lone \\ud800 escape is JSON but no text: nothing downstream could encode it.
        raise CallError("expected Unicode text, got half of a surrogate pair")
    return call


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise CallError(f"expected a finite number, got {text[:20]}")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise CallError(f"expected a finite number, got {name}")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if repeated := sorted({key for key in keys if keys.count(key) > 1}):
        raise CallError(f"expected each key once, got {_short(repeated[0])} twice")
    return dict(pairs)


def _is_strict_integer(_: object, value: object) -> bool:
    # JSON schema counts 3.0 as an integer; a coordinate must be written without a point.
    return isinstance(value, int) and not isinstance(value, bool)


_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", _is_strict_integer
    ),
)


def _check_schema(name: str, arguments: Any, tool: Schema) -> None:
    schema = argument_schema(tool)
    errors = sorted(_Validator(schema).iter_errors(arguments), key=lambda error: list(error.path))
    if errors:
        raise CallError(f"{name}: {_sentence(errors[0])}")


def _sentence(error: jsonschema.ValidationError) -> str:
    """One of jsonschema's findings in our words."""
    where = f"{error.path[0]}: " if error.path else ""
    return f"{where}expected {_expectation(error)}, got {_short(error.instance)}"


def _expectation(error: jsonschema.ValidationError) -> str:
    schema, rule = error.schema, error.validator
    assert isinstance(schema, dict)
    if rule in ("required", "additionalProperties", "oneOf"):
        return _expected_keys(schema)
    if rule in ("minItems", "maxItems"):
        return f"{schema['minItems']} numbers"
    if rule == "enum":
        return f"one of {', '.join(schema['enum'])}"
    if rule in ("minLength", "maxLength"):
        return f"{schema['minLength']} to {schema['maxLength']} characters"
    return _expected_type(schema)


def _expected_keys(schema: Schema) -> str:
    """'media and box, optionally time'; 'media and point or box, optionally time' for segment."""
    required = list(schema["required"])
    choice = [key for branch in schema.get("oneOf", []) for key in branch["required"]]
    optional = [key for key in schema["properties"] if key not in (*required, *choice)]
    text = " and ".join(required + ([f"exactly one of {' and '.join(choice)}"] if choice else []))
    return text + (f", optionally {', '.join(optional)}" if optional else "")


def _expected_type(schema: Schema) -> str:
    if schema["type"] in ("integer", "number"):
        article = "an" if schema["type"] == "integer" else "a"
        return f"{article} {schema['type']} from {schema['minimum']} to {schema['maximum']}"
    if schema["type"] == "array":
        return f"a list of {schema['minItems']} numbers"
    return {"object": "an object of arguments", "string": "a string"}[schema["type"]]


def _check_order(name: str, arguments: dict[str, Any]) -> None:
    if box := arguments.get("box"):
        x0, y0, x1, y1 = box
        if x0 >= x1 or y0 >= y1:
            raise CallError(
                f"{name}: box: expected [x0, y0, x1, y1] with x0 < x1 and y0 < y1, got {box}"
            )
    if "start" in arguments and arguments["start"] >= arguments["end"]:
        times = f"start {arguments['start']} and end {arguments['end']}"
        raise CallError(f"{name}: expected start < end, got {times}")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
