"""Chat completions through the real openai client, on a real (random) policy and real tools."""

import asyncio
import json

import jsonschema
import openai
import pytest

from pixelis_fast.schemas import TOOL_SCHEMAS, argument_schema
from tests.media import clip
from tests.serve.running import MODEL, PATIENCE_S, image, text, video

COINS = (image(), text("How many coins?"))
ZOOM = '<tool_call>\n{"name":"zoom","arguments":{"media":0,"box":[0,0,500,500]}}\n</tool_call>'
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Paris", "Oslo"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}


def own(choice) -> dict:
    """What OpenAI's form has no place for."""
    return choice.model_extra["pixelis"]


def reasoning(message) -> str:
    return (message.model_extra or {}).get("reasoning_content", "")


def values(rows) -> list[float]:
    """Every log-probability of some entries."""
    return [each.logprob for row in rows for each in (row, *row.top_logprobs)]


def collect(stream) -> dict:
    """What a client makes of a stream's first choice."""
    found = {"content": "", "reasoning": "", "calls": [], "logprobs": [], "steps": []}
    for chunk in stream:
        found["last"] = chunk
        for choice in chunk.choices:
            assert choice.index == 0
            found["content"] += choice.delta.content or ""
            found["reasoning"] += reasoning(choice.delta)
            found["calls"] += choice.delta.tool_calls or []
            found["logprobs"] += choice.logprobs.content if choice.logprobs else []
            found["finish_reason"] = choice.finish_reason
            if "step" in (choice.model_extra or {}).get("pixelis", {}):
                found["steps"].append(own(choice))
    return found


def test_an_answer_has_openais_form(server):
    answer = server.ask(*COINS, seed=3, max_tokens=60)
    assert answer.object == "chat.completion"
    assert answer.model == MODEL
    assert answer.system_fingerprint == server.agent.engine.version
    [choice] = answer.choices
    assert choice.message.role == "assistant"
    assert choice.finish_reason in ("stop", "length")
    assert own(choice)["seed"] == 3
    usage = answer.usage
    assert 0 < usage.completion_tokens <= 60
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_a_seed_repeats_an_answer_and_another_does_not(server):
    first, again, other = (server.ask(*COINS, seed=s, max_tokens=40) for s in (3, 3, 4))
    assert first.choices[0].message == again.choices[0].message
    assert first.choices[0].message != other.choices[0].message


def test_n_completions_share_a_prompt_and_differ(server):
    before = server.agent.loop.stats().forked
    answer = server.ask(*COINS, seed=3, n=3, max_tokens=30)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [own(choice)["seed"] for choice in answer.choices] == [3, 4, 5]
    texts = {reasoning(c.message) + c.message.content for c in answer.choices}
    assert len(texts) == 3
    assert server.agent.loop.stats().forked > before
    alone = server.ask(*COINS, seed=5, max_tokens=30)
    assert alone.choices[0].message == answer.choices[2].message
    assert alone.usage.prompt_tokens == answer.usage.prompt_tokens


@pytest.mark.parametrize("n", [1, 2])
def test_a_stream_says_what_a_whole_answer_says(server, n):
    options = {"seed": 11, "max_tokens": 80, "logprobs": True, "top_logprobs": 2, "n": n}
    whole = server.ask(*COINS, **options)
    chunks = list(
        server.ask(*COINS, **options, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[-1].usage == whole.usage
    assert chunks[-1].choices == []
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1
    for index, choice in enumerate(whole.choices):
        parts = [c for chunk in chunks for c in chunk.choices if c.index == index]
        assert parts[0].delta.role == "assistant"
        assert "".join(p.delta.content or "" for p in parts) == choice.message.content
        assert "".join(reasoning(p.delta) for p in parts) == reasoning(choice.message)
        assert parts[-1].finish_reason == choice.finish_reason
        found = [row for p in parts if p.logprobs for row in p.logprobs.content]
        expected = choice.logprobs.content
        assert [row.token for row in found] == [row.token for row in expected]
        # Which rows share a forward decides the last bits.
        assert values(found) == pytest.approx(values(expected), abs=1e-4)


def test_many_clients_at_once_get_what_each_gets_alone(server):
    options = [{"seed": seed, "max_tokens": 30} for seed in range(8)]
    alone = [server.ask(*COINS, **each).choices[0].message for each in options]

    async def ask_all():
        async with openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S
        ) as client:
            messages = [{"role": "user", "content": list(COINS)}]
            asked = [
                client.chat.completions.create(model=MODEL, messages=messages, **each)
                for each in options
            ]
            return await asyncio.gather(*asked)

    together = asyncio.run(ask_all())
    assert [answer.choices[0].message for answer in together] == alone


def test_an_async_stream_ends(server):
    async def stream():
        async with openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S
        ) as client:
            chunks = await client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": "Hello"}],
                seed=1,
                max_tokens=20,
                stream=True,
            )
            return [chunk async for chunk in chunks]

    chunks = asyncio.run(stream())
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


def test_the_server_runs_tools_and_shows_the_chain(server):
    turns = (
        f"I look closer.{ZOOM}",
        '<tool_call>\n{"name":"segment","arguments":{"media":0,"box":[60,60,220,260]}}\n</tool_call>',
        '<tool_call>\n{"name":"properties","arguments":{"mask":0}}\n</tool_call>',
        '<tool_call>\n{"name":"properties","arguments":{"mask":7}}\n</tool_call>',
        "So.<answer>24</answer>",
    )
    server.script(*turns)
    whole = server.ask(*COINS)
    [choice] = whole.choices
    assert (choice.message.content, choice.finish_reason) == ("24", "stop")
    assert reasoning(choice.message) == "I look closer.\n\nSo."
    steps = own(choice)["steps"]
    assert [step["call"]["operation"] for step in steps] == ["zoom", "segment", *["properties"] * 2]
    assert json.loads(steps[1]["observation"]["text"])["mask"] == 0
    assert "mask: expected 0..0, got 7" in steps[3]["observation"]["error"]
    server.script(*turns)
    streamed = collect(server.ask(*COINS, stream=True))
    assert streamed["content"] == "24"
    assert streamed["finish_reason"] == "stop"
    assert [step["step"] for step in streamed["steps"]] == [0, 0, 1, 1, 2, 2, 3, 3]
    calls = [step["call"] for step in streamed["steps"] if "call" in step]
    assert calls == [step["call"] for step in steps]


def test_a_video_is_seen(server):
    server.script(
        '<tool_call>\n{"name":"localize","arguments":{"media":0,"event":"motion"}}\n</tool_call>',
        "<answer>soon</answer>",
    )
    answer = server.ask(video(clip("carphone_pristine.mp4")), text("When does he move?"))
    [step] = own(answer.choices[0])["steps"]
    assert step["observation"]["error"] is None
    assert json.loads(step["observation"]["text"])["spans"]


def test_files_below_the_media_root_are_seen(server):
    local = {"type": "image_url", "image_url": {"url": "file:///coins.png"}}
    by_file = server.ask(local, text("How many coins?"), seed=2, max_tokens=20)
    by_data = server.ask(*COINS, seed=2, max_tokens=20)
    assert by_file.choices[0].message == by_data.choices[0].message


def test_calls_are_handed_to_the_client_and_answered(server):
    messages = [{"role": "user", "content": "Is it warm in Oslo?"}]
    create = server.client.chat.completions.create
    asked = create(model=MODEL, messages=messages, tools=[WEATHER], tool_choice="required", seed=1)
    [choice] = asked.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    [call] = choice.message.tool_calls
    assert call.function.name == "weather"
    arguments = json.loads(call.function.arguments)
    jsonschema.validate(arguments, WEATHER["function"]["parameters"])
    # As applications do: the message goes back as it came.
    messages += [
        choice.message,
        {"role": "tool", "tool_call_id": call.id, "content": '{"celsius": 21}'},
    ]
    answered = create(
        model=MODEL, messages=messages, tools=[WEATHER], tool_choice="none", max_tokens=30, seed=1
    )
    assert answered.choices[0].message.content
    assert answered.usage.prompt_tokens > asked.usage.prompt_tokens - 200


def test_a_streamed_call_is_the_whole_one(server):
    messages = [{"role": "user", "content": "Is it warm?"}]
    options = {"model": MODEL, "messages": messages, "tools": [WEATHER], "seed": 8}
    create = server.client.chat.completions.create
    whole = create(**options, tool_choice="required").choices[0]
    streamed = collect(create(**options, tool_choice="required", stream=True))
    assert streamed["finish_reason"] == "tool_calls"
    [call] = streamed["calls"]
    assert call.index == 0
    expected = whole.message.tool_calls[0].function
    assert (call.function.name, call.function.arguments) == (expected.name, expected.arguments)


def test_the_agents_own_tools_can_be_handed_over(server):
    server.script(f"I look.{ZOOM}")
    answer = server.ask(*COINS, extra_body={"pixelis": {"tools": "client"}})
    [call] = answer.choices[0].message.tool_calls
    arguments = json.loads(call.function.arguments)
    jsonschema.validate(arguments, argument_schema(TOOL_SCHEMAS["zoom"]))
    assert own(answer.choices[0])["steps"] == []
    assert own(answer.choices[0])["status"] == "called"


def test_an_answer_follows_a_json_schema(server):
    schema = {
        "type": "object",
        "properties": {
            "metal": {"enum": ["gold", "silver"]},
            "count": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["metal", "count"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "coins", "schema": schema}}
    for seed in range(3):
        answer = server.ask(
            *COINS, response_format=form, tool_choice="none", seed=seed, max_tokens=200
        )
        assert answer.choices[0].finish_reason == "stop"
        jsonschema.validate(json.loads(answer.choices[0].message.content), schema)


def test_a_stop_string_ends_an_answer(server):
    script = "<answer>one two three four five</answer>"
    server.script(script)
    answer = server.ask(*COINS, stop=[" three"])
    assert answer.choices[0].message.content == "one two"
    assert answer.choices[0].finish_reason == "stop"
    assert own(answer.choices[0])["status"] == "stopped"
    server.script(script)
    streamed = collect(server.ask(*COINS, stop=[" three"], stream=True))
    assert streamed["content"] == "one two"


def test_a_stream_has_one_line_per_event_whatever_is_said(server):
    words = "one\u2028two\u0085three\x0bfour\nfive \u00e9\U0001f600"
    server.script(f"<answer>{words}</answer>")
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "stream": True}
    with server.http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == words


def test_greedy_tokens_are_the_likeliest(server):
    answer = server.ask(
        *COINS, temperature=0, logprobs=True, top_logprobs=4, max_tokens=30, tool_choice="none"
    )
    rows = answer.choices[0].logprobs.content
    assert rows
    for row in rows:
        assert row.bytes == list(row.token.encode()) or "\ufffd" in row.token
        best = row.top_logprobs[0]
        assert (best.token, best.logprob) == (row.token, pytest.approx(row.logprob, abs=1e-6))
        ranked = [each.logprob for each in row.top_logprobs]
        assert ranked == sorted(ranked, reverse=True)
        assert max(ranked) <= 0


def test_logprobs_without_alternatives_are_the_recorded_ones(server):
    tokens = {"pixelis": {"tokens": True}}
    answer = server.ask(
        *COINS, seed=6, logprobs=True, max_tokens=30, tool_choice="none", extra_body=tokens
    )
    recorded = own(answer.choices[0])["tokens"]
    lengths = {len(recorded[key]) for key in ("ids", "roles", "logprobs", "forced")}
    assert lengths == {len(recorded["ids"])}
    assert recorded["roles"].count("prompt") == answer.usage.prompt_tokens
    shown = [row.logprob for row in answer.choices[0].logprobs.content]
    assert shown
    assert set(shown) <= set(recorded["logprobs"])
    assert all(row.top_logprobs == [] for row in answer.choices[0].logprobs.content)


def test_max_tokens_is_a_length(server):
    answer = server.ask(*COINS, seed=1, max_completion_tokens=5)
    assert answer.usage.completion_tokens == 5
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.content


def test_nothing_is_held_after_answers(server):
    server.ask(*COINS, max_tokens=5)
    server.wait_until_idle()
    assert server.agent.loop.stats().running == 0
    kept = {i for record, _ in server.service.traces._records.values() for i in record.media_ids}
    assert server.service.ledger.num_media == len(kept)
