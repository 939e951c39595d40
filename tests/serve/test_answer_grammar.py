"""Turns of clients' functions and JSON answers: what may be said, and that a policy always can."""

import json

import jsonschema
import pytest
import torch

from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.schemas import TOOL_SCHEMAS, argument_schema
from pixelis_fast.serve.answer_grammar import KEPT, AnswerGrammars
from pixelis_fast.serve.assembler import Assembler
from pixelis_fast.serve.errors import ApiError
from pixelis_fast.serve.functions import Functions, RunsTools

TOKENIZER = Tokenizer.embedded()
COUNT = {
    "type": "object",
    "properties": {"count": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["count"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 9}, "box": {"type": "boolean"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
UNTAGGED, TAGGED = "hi<|im_end|>", "hm<answer>x</answer><|im_end|>"
AS_JSON = 'hm<answer>{"count":24}</answer><|im_end|>'
SPACED = '<answer>{"count": 24}</answer><|im_end|>'
ZOOM = (
    '<tool_call>\n{"name":"zoom","arguments":{"media":0,"box":[1,2,3,4]}}\n</tool_call><|im_end|>'
)
CITY = 'So <tool_call>\n{"name":"weather","arguments":{"city":"Oslo"}}\n</tool_call><|im_end|>'


@pytest.fixture(scope="module")
def grammars() -> AnswerGrammars:
    return AnswerGrammars(TOKENIZER, vocab_size=TOKENIZER.vocab_size, max_thought_tokens=12)


def client(*, must_call: bool = False, answer_schema=None) -> Functions:
    return Functions(
        RunsTools.CLIENT, {"weather": WEATHER}, must_call=must_call, answer_schema=answer_schema
    )


def allows(
    grammars: AnswerGrammars, functions: Functions, turn: str, *, is_last: bool = False
) -> bool:
    state = grammars.get(functions).start(is_last=is_last)
    try:
        state.accept(TOKENIZER.encode_structure(turn))
    except ValueError:
        return False
    return state.is_done


@pytest.mark.parametrize(
    ("functions", "allowed", "refused"),
    [
        (Functions(), [UNTAGGED, TAGGED, AS_JSON, ZOOM], [CITY]),
        (Functions(RunsTools.NOBODY, {}), [UNTAGGED, TAGGED], [ZOOM, CITY]),
        (
            Functions(RunsTools.NOBODY, {}, answer_schema=COUNT),
            [AS_JSON],
            [UNTAGGED, TAGGED, SPACED, ZOOM],
        ),
        (Functions(answer_schema=COUNT), [AS_JSON, ZOOM], [UNTAGGED, TAGGED, SPACED]),
        (client(), [UNTAGGED, TAGGED, CITY], [ZOOM]),
        (client(must_call=True), [CITY], [UNTAGGED, TAGGED, ZOOM]),
        (client(answer_schema=COUNT), [CITY, AS_JSON], [UNTAGGED, TAGGED]),
    ],
    ids=["own", "none", "json", "own-or-json", "client", "must-call", "client-or-json"],
)
def test_a_turn_is_what_the_request_asked_for(grammars, functions, allowed, refused):
    assert [turn for turn in allowed if not allows(grammars, functions, turn)] == []
    assert [turn for turn in refused if allows(grammars, functions, turn)] == []


def test_behind_the_last_call_comes_an_answer_of_the_form_asked_for(grammars):
    own_or_json = Functions(answer_schema=COUNT)
    assert allows(grammars, own_or_json, AS_JSON, is_last=True)
    for turn in (ZOOM, UNTAGGED, TAGGED):
        assert not allows(grammars, own_or_json, turn, is_last=True)


def generate(grammars: AnswerGrammars, functions: Functions, seed: int) -> Assembler:
    """A turn of a policy that likes every token alike, in 300 tokens at most."""
    generator = torch.Generator().manual_seed(seed)
    state, assembler = (
        grammars.get(functions).start(),
        Assembler(TOKENIZER, stop=(), hands_over=True),
    )
    for _ in range(300):
        allowed_V = state.allowed()
        token = int(torch.multinomial(allowed_V.float(), 1, generator=generator))
        ids = [token]
        state.accept(ids)
        ids += state.forced()
        state.accept(ids[1:])
        assembler.push(ids)
        if state.is_done:
            break
    assert state.is_done
    return assembler


@pytest.mark.parametrize("seed", range(8))
def test_any_policy_calls_and_answers_validly(grammars, seed):
    [call] = generate(grammars, client(must_call=True), seed).calls
    assert call.name == "weather"
    jsonschema.validate(json.loads(call.arguments), WEATHER["function"]["parameters"])
    functions = Functions(RunsTools.NOBODY, {}, answer_schema=COUNT)
    jsonschema.validate(json.loads(generate(grammars, functions, seed).content), COUNT)


@pytest.mark.parametrize("name", TOOL_SCHEMAS)
def test_our_own_tools_keep_their_grammar(grammars, name):
    functions = Functions(RunsTools.CLIENT, {name: TOOL_SCHEMAS[name]}, must_call=True)
    for seed in range(20):
        [call] = generate(grammars, functions, seed).calls
        jsonschema.validate(json.loads(call.arguments), argument_schema(TOOL_SCHEMAS[name]))


@pytest.mark.parametrize(
    ("schema", "reason"),
    [({"type": "foo"}, "Invalid type: foo"), ({"not": {}}, '["not"]')],
)
def test_a_schema_that_cannot_be_followed_is_named(grammars, schema, reason):
    with pytest.raises(ApiError, match="expected a JSON schema that generation can follow") as it:
        grammars.get(Functions(RunsTools.NOBODY, {}, answer_schema=schema))
    assert reason in str(it.value)
    parameters = {"type": "object", "properties": {"x": schema}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    with pytest.raises(ApiError, match="tools: f: parameters: expected"):
        grammars.get(Functions(RunsTools.CLIENT, {"f": tool}))


def test_grammars_are_kept_for_a_while(grammars):
    first = grammars.get(client())
    assert grammars.get(client()) is first
    for number in range(KEPT):
        schema = {"type": "integer", "minimum": 0, "maximum": number}
        grammars.get(Functions(RunsTools.NOBODY, {}, answer_schema=schema))
    assert grammars.get(client()) is not first
