"""One description per tool; every bad call is refused with a sentence the policy can read."""

import json
import re

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelis_fast.schemas import (
    MAX_CALL_CHARS,
    TOOL_SCHEMAS,
    CallError,
    argument_schema,
    format_call,
    parse_call,
)
from pixelis_fast.types import ToolCall

BOX = [100, 200, 300, 400]
GOOD = [
    ToolCall("zoom", {"media": 0, "box": BOX}),
    ToolCall("zoom", {"media": 63, "box": [0, 0, 1000, 1000], "time": 1.25}),
    ToolCall("segment", {"media": 0, "point": [0, 1000]}),
    ToolCall("segment", {"media": 0, "box": BOX, "time": 3}),
    ToolCall("track", {"media": 1, "box": BOX, "start": 0, "end": 2.5}),
    ToolCall("read_text", {"media": 0}),
    ToolCall("read_text", {"media": 0, "box": BOX, "time": 0}),
    ToolCall("localize", {"media": 0, "event": "motion"}),
    ToolCall("localize", {"media": 0, "event": "text", "box": BOX, "time": 1, "query": 'a "é"'}),
    ToolCall("properties", {"mask": 0}),
]


def zoom(**changes: object) -> str:
    return json.dumps({"name": "zoom", "arguments": {"media": 0, "box": BOX} | changes})


BAD = {
    "not JSON": ('{"name":"zoom",', 'expected JSON, got .* near ".*"'),
    "empty": ("", "expected JSON, got "),
    "a list": ("[]", r"expected a JSON object, got \[\]"),
    "no arguments": ('{"name":"zoom"}', 'expected the keys "name" and "arguments", got '),
    "extra key": ('{"name":"zoom","arguments":{},"id":1}', 'expected the keys "name"'),
    "key twice": ('{"name":"zoom","name":"zoom","arguments":{}}', 'once, got "name" twice'),
    "unknown tool": ('{"name":"crop","arguments":{}}', 'one of the tools zoom, .*, got "crop"'),
    "name is a list": ('{"name":["zoom"],"arguments":{}}', "expected one of the tools"),
    "arguments a string": ('{"name":"zoom","arguments":"{}"}', "expected an object of arguments"),
    "unknown argument": (zoom(scale=2), "expected media and box, optionally time, got "),
    "missing": ('{"name":"zoom","arguments":{"media":0}}', "expected media and box"),
    "negative media": (zoom(media=-1), "media: expected an integer from 0 to 63, got -1"),
    "media true": (zoom(media=True), "media: expected an integer .*, got true"),
    "media null": (zoom(media=None), "media: expected an integer .*, got null"),
    "3 numbers": (zoom(box=[1, 2, 3]), r"box: expected 4 numbers, got \[1, 2, 3\]"),
    "5 numbers": (zoom(box=[1, 2, 3, 4, 5]), "box: expected 4 numbers"),
    "a number": (zoom(box=7), "box: expected a list of 4 numbers, got 7"),
    "with a point": (zoom(box=[1.0, 2, 3, 4]), "expected an integer from 0 to 1000, got 1.0"),
    "above range": (zoom(box=[0, 0, 1001, 5]), "expected an integer from 0 to 1000, got 1001"),
    "x order": (zoom(box=[5, 0, 5, 9]), "x0 < x1 and y0 < y1, got"),
    "y order": (zoom(box=[0, 9, 5, 5]), "x0 < x1 and y0 < y1, got"),
    "NaN": ('{"name":"zoom","arguments":{"media":NaN}}', "expected a finite number, got NaN"),
    "infinity": (zoom(time=1).replace("1}", "1e999}"), "expected a finite number, got 1e999"),
    "negative time": (zoom(time=-0.5), "time: expected a number from 0 to 86400, got -0.5"),
    "time a string": (zoom(time="1"), 'time: expected a number .*, got "1"'),
    "point and box": (
        json.dumps({"name": "segment", "arguments": {"media": 0, "point": [1, 2], "box": BOX}}),
        "expected media and exactly one of point and box, optionally time, got",
    ),
    "no point or box": ('{"name":"segment","arguments":{"media":0}}', "exactly one of point and"),
    "start after end": (
        json.dumps({"name": "track", "arguments": {"media": 0, "box": BOX, "start": 3, "end": 2}}),
        "track: expected start < end, got start 3 and end 2",
    ),
    "unknown event": (
        '{"name":"localize","arguments":{"media":0,"event":"boom"}}',
        'event: expected one of change, motion, appearance, text, got "boom"',
    ),
    "empty query": (
        '{"name":"localize","arguments":{"media":0,"event":"text","query":""}}',
        "query: expected 1 to 200 characters",
    ),
    "half a surrogate": (
        r'{"name":"localize","arguments":{"media":0,"event":"text","query":"\ud800"}}',
        "expected Unicode text",
    ),
    "deep": ("[" * 4000, "nested too deeply"),
    "long": (" " * (MAX_CALL_CHARS + 1), f"expected at most {MAX_CALL_CHARS} characters"),
}


@pytest.mark.parametrize("call", GOOD, ids=lambda call: f"{call.operation}-{len(call.arguments)}")
def test_parse_call_reads_back_format_call(call):
    assert parse_call(format_call(call)) == call


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_parse_call_refuses(text, message):
    with pytest.raises(CallError, match=message) as caught:
        parse_call(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@given(st.text() | st.recursive(st.integers() | st.text(), st.lists).map(json.dumps))
def test_parse_call_raises_nothing_but_call_error(text):
    with pytest.raises(CallError):
        parse_call(text)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda values: st.lists(values, max_size=5) | st.dictionaries(st.text(max_size=5), values),
    max_leaves=8,
)
KEYS = st.sampled_from(["media", "box", "point", "time", "start", "end", "event", "mask", "other"])


@given(st.sampled_from(list(TOOL_SCHEMAS)), st.dictionaries(KEYS, JSON_VALUES))
def test_any_arguments_are_a_call_or_a_call_error(name, arguments):
    try:
        call = parse_call(json.dumps({"name": name, "arguments": arguments}))
    except CallError as error:
        message = str(error)
    else:
        jsonschema.validate(call.arguments, argument_schema(TOOL_SCHEMAS[name]))
        return
    assert re.search(r"expected .*, got ", message, re.DOTALL)


def test_schemas_are_valid_function_schemas():
    names = ["zoom", "segment", "track", "read_text", "localize", "properties"]
    assert list(TOOL_SCHEMAS) == names
    for name, tool in TOOL_SCHEMAS.items():
        assert tool["type"] == "function"
        assert tool["function"]["name"] == name
        jsonschema.Draft202012Validator.check_schema(argument_schema(tool))
