"""Every field of a request is read, refused by name, or known to change nothing."""

import pytest

from pixelis_fast.conversation import Message, Speaker
from pixelis_fast.policy.sampling import Sampling
from pixelis_fast.rollout import RolloutConfig
from pixelis_fast.schemas import TOOL_SCHEMAS
from pixelis_fast.serve.chat_request import WITHOUT_EFFECT, ChatRequest
from pixelis_fast.serve.config import MediaRules, ServeConfig
from pixelis_fast.serve.errors import ApiError
from pixelis_fast.serve.functions import RunsTools
from pixelis_fast.types import MediaKind, ToolCall

ROLLOUT = RolloutConfig(max_steps=4, max_tokens=100, sampling=Sampling(temperature=0.5))
SERVE = ServeConfig(max_n=3, max_text_chars=1000, media=MediaRules(max_media=2))
USER = {"role": "user", "content": "Hi"}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}
PIXELS = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


def read(*, messages=(USER,), model="m", **fields) -> ChatRequest:
    row = {"model": model, "messages": list(messages), **fields}
    return ChatRequest.read(row, rollout=ROLLOUT, serve=SERVE, name="m")


def refused(*, status=400, **fields) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(**fields)
    assert caught.value.status == status
    return caught.value


def test_what_is_left_out_is_the_servers_default():
    chat = read()
    assert (chat.n, chat.max_tokens, chat.max_steps, chat.stop) == (1, 100, 4, ())
    assert (chat.sampling.temperature, chat.sampling.top_p) == (0.5, 1.0)
    assert chat.functions.runs is RunsTools.SERVER
    assert chat.functions.is_plain
    assert (chat.stream, chat.logprobs, chat.shows_tokens) == (False, False, False)


def test_without_a_seed_each_request_draws_its_own():
    assert len({read().sampling.seed for _ in range(8)}) == 8
    assert read(seed=5).sampling.seed == read(seed=5).sampling.seed == 5
    assert read(seed=-1).sampling.seed >= 0


def test_every_field_is_read():
    chat = read(
        n=2,
        seed=9,
        temperature=0,
        top_p=0.5,
        top_k=7,
        max_tokens=30,
        stop="END",
        logprobs=True,
        top_logprobs=3,
        user="ann",
        stream=True,
        stream_options={"include_usage": True},
        pixelis={"tools": "none", "max_steps": 2, "trace": False, "tokens": True},
    )
    assert chat.sampling == Sampling(temperature=0, top_p=0.5, top_k=7, seed=9)
    assert (chat.n, chat.max_tokens, chat.max_steps, chat.stop) == (2, 30, 2, ("END",))
    assert (chat.logprobs, chat.top_logprobs, chat.user) == (True, 3, "ann")
    assert (chat.stream, chat.include_usage) == (True, True)
    assert (chat.shows_trace, chat.shows_tokens) == (False, True)
    assert chat.functions.runs is RunsTools.NOBODY


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": 4}, "n: expected an integer from 1 to 3, got 4"),
        ({"n": True}, "n: expected an integer"),
        ({"temperature": 2.5}, "temperature: expected a number from 0 to 2, got 2.5"),
        ({"temperature": "hot"}, 'temperature: expected a number from 0 to 2, got "hot"'),
        ({"top_p": 0}, "top_p: expected a number above 0"),
        ({"top_k": -1}, "top_k: expected"),
        ({"seed": 1.5}, "seed: expected an integer"),
        ({"stop": ["a"] * 5}, "stop: expected a string or up to 4 strings"),
        ({"stop": ""}, "stop: expected"),
        ({"max_tokens": 101}, "max_tokens: expected an integer from 1 to 100, got 101"),
        ({"max_tokens": 0}, "max_tokens: expected"),
        ({"max_tokens": 9, "max_completion_tokens": 9}, "max_tokens: expected it left out"),
        ({"stream": "yes"}, 'stream: expected true or false, got "yes"'),
        ({"stream_options": {"include_usage": True}}, "stream_options: expected it only with"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options: unknown field x"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs: expected"),
        ({"top_logprobs": 2}, "top_logprobs: expected 0 without logprobs"),
        ({"frequency_penalty": 0.5}, "frequency_penalty: not supported; expected 0, got 0.5"),
        ({"logit_bias": {"5": 1}}, "logit_bias: not supported"),
        ({"reasoning_effort": "low"}, "reasoning_effort: not supported"),
        ({"functions": []}, "functions: not supported; expected it left out"),
        ({"best_of": 2}, "request: unknown field best_of"),
        ({"user": "u" * 201}, "user: expected at most 200 characters"),
        ({"pixelis": {"tools": "me"}}, "pixelis.tools: expected server or client or none"),
        ({"pixelis": {"colour": 1}}, "pixelis: unknown field colour"),
        ({"pixelis": {"max_steps": 5}}, "pixelis.max_steps: expected an integer from 1 to 4"),
        ({"messages": []}, "messages: expected one of a user, got none"),
    ],
    ids=lambda each: "-".join(each) if isinstance(each, dict) else "",
)
def test_a_wrong_field_is_named(fields, message):
    assert message in str(refused(**fields))


@pytest.mark.parametrize("field", WITHOUT_EFFECT)
def test_unsupported_fields_pass_without_effect_only(field):
    for value in (None, *WITHOUT_EFFECT[field]):
        assert read(**{field: value}).n == 1
    error = refused(**{field: "something"})
    assert error.param == field
    assert error.code == "unsupported_parameter"


def test_another_model_is_not_found():
    error = refused(model="gpt", status=404)
    assert (error.code, error.param) == ("model_not_found", "model")
    assert "model: expected m, got gpt" in str(error)


def test_a_conversation_is_read_in_order():
    call = {"id": "c1", "type": "function", "function": {"name": "zoom", "arguments": '{"a":1}'}}
    chat = read(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
            {"role": "user", "content": [PIXELS, {"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
            {"role": "tool", "tool_call_id": "c1", "content": "{}"},
            {"role": "assistant", "content": "A cat.", "reasoning_content": "So."},
            {"role": "user", "content": "Sure?"},
        ]
    )
    assert chat.messages.system == "Be brief.\n\nBe kind."
    assert chat.messages.messages == (
        Message(Speaker.USER, (0, "What?")),
        Message(Speaker.ASSISTANT, (), (ToolCall("zoom", {"a": 1}),)),
        Message(Speaker.TOOL, ("{}",)),
        Message(Speaker.ASSISTANT, ("A cat.",), (), "So."),
        Message(Speaker.USER, ("Sure?",)),
    )
    [media] = chat.messages.media
    assert (media.kind, media.param) == (MediaKind.IMAGE, "messages[2].content[0]")
    assert chat.messages.question == "Sure?"


CALL = {"id": "c", "type": "function", "function": {"name": "zoom", "arguments": "{}"}}
CALLED = {"role": "assistant", "tool_calls": [CALL]}
ANSWERED = {"role": "tool", "tool_call_id": "c", "content": "x"}


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "robot", "content": "x"}], "messages[0].role: expected system or"),
        ([{"content": "x"}], "messages[0].role: expected"),
        (["x"], 'messages[0]: expected an object, got "x"'),
        ([{**USER, "name": "ann"}], "messages[0].name: not supported"),
        ([{**USER, "mood": "x"}], "messages[0]: unknown field mood"),
        ([{"role": "user"}], "messages[0].content: expected a string or a list"),
        ([{"role": "user", "content": []}], "messages[0].content: expected"),
        ([{"role": "user", "content": [{"type": "file"}]}], "content[0].type: expected text or"),
        ([{"role": "user", "content": "\ud800"}], "half of a surrogate"),
        ([USER, {"role": "system", "content": "x"}], "expected system messages before"),
        ([USER, {"role": "assistant", "content": "x"}], "expected a user's or a tool's last"),
        ([USER, {"role": "assistant", "content": ""}], "expected a text, or tool_calls"),
        ([USER, CALLED], "expected a user's or a tool's last"),
        ([USER, CALLED, USER], "expected a tool's message for each call first: c"),
        ([USER, ANSWERED], "messages[1].tool_call_id: expected the id of a call"),
        ([USER, CALLED, ANSWERED, ANSWERED], "messages[3].tool_call_id: expected the id"),
        ([{"role": "user", "content": [PIXELS] * 3}], "expected at most 2 images and videos"),
        (
            [{"role": "user", "content": [{**PIXELS, "image_url": {"url": "x", "detail": "low"}}]}],
            "detail: not supported",
        ),
        (
            [{"role": "system", "content": [PIXELS]}, USER],
            "messages[0].content[0].type: expected text",
        ),
    ],
)
def test_a_wrong_message_is_named(messages, message):
    assert message in str(refused(messages=messages))


def test_texts_have_a_limit_together():
    messages = [{"role": "user", "content": "x" * 501}] * 2
    assert "at most 1000 characters" in str(refused(messages=messages, status=413))


def test_tools_of_a_request_are_the_clients():
    functions = read(tools=[WEATHER]).functions
    assert functions.runs is RunsTools.CLIENT
    assert list(functions.schemas) == ["weather"]
    assert read(tools=[WEATHER], tool_choice="required").functions.must_call
    assert read(tools=[WEATHER], tool_choice="none").functions.runs is RunsTools.NOBODY
    named = {"type": "function", "function": {"name": "weather"}}
    assert list(read(tools=[WEATHER], tool_choice=named).functions.schemas) == ["weather"]


def test_the_agents_tools_can_be_handed_over():
    functions = read(pixelis={"tools": "client"}).functions
    assert functions.runs is RunsTools.CLIENT
    assert functions.schemas == TOOL_SCHEMAS


def test_an_answer_may_be_json():
    schema = {"type": "object", "properties": {"count": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    assert read(response_format=form).functions.answer_schema == schema
    anything = read(response_format={"type": "json_object"}).functions.answer_schema
    assert anything == {"type": "object"}
    assert read(response_format={"type": "text"}).functions.answer_schema is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tools": [{"type": "web"}]}, 'tools[0].type: expected function, got "web"'),
        ({"tools": [WEATHER, WEATHER]}, "tools: expected each name once"),
        ({"tools": "all"}, "tools: expected a list"),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            "tools[0].function.name: expected 1 to 64 letters",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": {}}}]},
            'parameters: expected a schema of "type": "object"',
        ),
        ({"tools": [WEATHER], "pixelis": {"tools": "server"}}, "pixelis.tools: expected client"),
        (
            {
                "tools": [WEATHER],
                "tool_choice": {"type": "function", "function": {"name": "x"}},
            },
            "tool_choice.function.name: expected one of weather",
        ),
        ({"tool_choice": "required"}, "tool_choice: expected auto or none where the server"),
        ({"response_format": {"type": "xml"}}, "response_format.type: expected text or"),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema.schema: expected a JSON schema",
        ),
    ],
)
def test_wrong_tools_are_named(fields, message):
    assert message in str(refused(**fields))
