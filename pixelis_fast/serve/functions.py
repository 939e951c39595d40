"""Who runs tools, which ones, and what form the answer has: tools, tool_choice, response_format.

Without `tools` the agent runs its own. With `tools`, or with pixelis.tools = "client", calls are
handed to the client. A request is checked here for its form; whether the grammar can follow a JSON
schema is the grammar's to say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pixelis_fast.schemas import TOOL_SCHEMAS, Schema
from pixelis_fast.serve.errors import ApiError
from pixelis_fast.serve.fields import Fields, expected

MAX_FUNCTIONS = 64
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
MAX_SCHEMA_CHARS = 50_000


class RunsTools(Enum):
    """Who runs a call."""

    SERVER = "server"
    CLIENT = "client"
    NOBODY = "none"


@dataclass(frozen=True)
class Functions:
    """What a turn may call and what its answer looks like.

    Example:
        Functions(RunsTools.CLIENT, {"weather": schema}, must_call=True)
    """

    runs: RunsTools = RunsTools.SERVER
    schemas: Mapping[str, Schema] = field(default_factory=lambda: TOOL_SCHEMAS)
    must_call: bool = False
    answer_schema: dict[str, Any] | None = None
    """JSON schema of the answer; None for free text."""

    @property
    def is_plain(self) -> bool:
        """True for the agent's own tools and free text: the loop's own grammar."""
        return self.runs is RunsTools.SERVER and self.answer_schema is None


def read_functions(fields: Fields, own: Fields) -> Functions:
    """From a request's fields; ApiError where they contradict each other."""
    given = [_function(row, i) for i, row in enumerate(fields.rows("tools", most=MAX_FUNCTIONS))]
    schemas = dict(given)
    if len(schemas) != len(given):
        raise expected("tools", "each name once", sorted(name for name, _ in given))
    # One call a turn is what the policy makes, so both values ask for what it does.
    fields.flag("parallel_tool_calls", True)
    runs = _runs(own, has_tools=bool(schemas))
    choice = fields.take("tool_choice")
    answer_schema = _answer_schema(fields)
    if runs is RunsTools.CLIENT:
        schemas = schemas or dict(TOOL_SCHEMAS)
        return _with_choice(choice, schemas, answer_schema)
    if choice not in (None, "auto", "none"):
        raise expected("tool_choice", "auto or none where the server runs tools", choice)
    if runs is RunsTools.NOBODY or choice == "none":
        return Functions(RunsTools.NOBODY, {}, answer_schema=answer_schema)
    return Functions(answer_schema=answer_schema)


def _runs(own: Fields, *, has_tools: bool) -> RunsTools:
    default = RunsTools.CLIENT if has_tools else RunsTools.SERVER
    runs = RunsTools(own.choice("tools", default.value, [each.value for each in RunsTools]))
    if has_tools and runs is not RunsTools.CLIENT:
        raise expected(own.path("tools"), "client beside tools of the request", runs.value)
    return runs


def _with_choice(
    choice: Any, schemas: dict[str, Schema], answer_schema: dict[str, Any] | None
) -> Functions:
    if choice in (None, "auto"):
        return Functions(RunsTools.CLIENT, schemas, answer_schema=answer_schema)
    if choice == "none":
        return Functions(RunsTools.NOBODY, {}, answer_schema=answer_schema)
    if choice == "required":
        return Functions(RunsTools.CLIENT, schemas, must_call=True)
    fields = Fields(choice, "tool_choice", prefix="tool_choice.")
    fields.choice("type", None, ["function"])
    function = fields.fields("function")
    name = function.required_text("name")
    function.finish()
    fields.finish()
    if name not in schemas:
        raise expected("tool_choice.function.name", f"one of {', '.join(schemas)}", name)
    return Functions(RunsTools.CLIENT, {name: schemas[name]}, must_call=True)


def _function(row: Any, index: int) -> tuple[str, Schema]:
    path = f"tools[{index}]"
    fields = Fields(row, path, prefix=f"{path}.")
    if (kind := fields.text("type")) != "function":
        raise expected(f"{path}.type", "function", kind)
    function = fields.fields("function")
    fields.finish()
    name = function.required_text("name")
    if not NAME.fullmatch(name):
        raise expected(f"{path}.function.name", "1 to 64 letters, digits, _ or -", name)
    description = function.text("description", "") or ""
    function.flag("strict")
    nothing = {"type": "object", "properties": {}, "additionalProperties": False}
    parameters = _schema(function.take("parameters", nothing), f"{path}.function.parameters")
    if parameters.get("type") != "object":
        raise expected(f"{path}.function.parameters", 'a schema of "type": "object"', parameters)
    function.finish()
    described = {"name": name, "description": description, "parameters": parameters}
    return name, {"type": "function", "function": described}


def _answer_schema(fields: Fields) -> dict[str, Any] | None:
    form = fields.fields("response_format")
    kind = form.choice("type", "text", ["text", "json_object", "json_schema"])
    described = form.fields("json_schema") if kind == "json_schema" else None
    form.finish()
    if described is None:
        return {"type": "object"} if kind == "json_object" else None
    described.text("name")
    described.text("description")
    described.flag("strict")
    schema = _schema(described.take("schema"), "response_format.json_schema.schema")
    described.finish()
    return schema


def _schema(schema: Any, path: str) -> dict[str, Any]:
    if not isinstance(schema, dict):
        raise expected(path, "a JSON schema", schema)
    size = len(json.dumps(schema))
    if size > MAX_SCHEMA_CHARS:
        raise ApiError(f"{path}: expected at most {MAX_SCHEMA_CHARS} characters, got {size}")
    return schema
