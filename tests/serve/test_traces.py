"""Kept traces: what they say, show and cost, and that nothing of them is markup."""

import io
import json
from dataclasses import replace

import pytest
from PIL import Image

from pixelis_fast.trace_pictures import LONGEST_SIDE
from tests.media import clip
from tests.serve.running import image, running, text, video

IMAGE_TURNS = (
    'I <look>.<tool_call>\n{"name":"zoom","arguments":{"media":0,"box":[0,0,500,500]}}\n'
    "</tool_call>",
    '<tool_call>\n{"name":"segment","arguments":{"media":0,"point":[140,160]}}\n</tool_call>',
    '<tool_call>\n{"name":"properties","arguments":{"mask":0}}\n</tool_call>',
    '<tool_call>\n{"name":"read_text","arguments":{"media":0}}\n</tool_call>',
    '<tool_call>\n{"name":"properties","arguments":{"mask":5}}\n</tool_call>',
    "So.<answer>24</answer>",
)
VIDEO_TURNS = (
    '<tool_call>\n{"name":"localize","arguments":{"media":0,"event":"motion"}}\n</tool_call>',
    '<tool_call>\n{"name":"track","arguments":{"media":0,"box":[300,200,700,800],'
    '"start":0,"end":1}}\n</tool_call>',
    '<tool_call>\n{"name":"zoom","arguments":{"media":0,"box":[300,200,700,800],"time":0.5}}\n'
    "</tool_call>",
    "<answer>soon</answer>",
)


def trace_of(answer) -> str:
    return answer.choices[0].model_extra["pixelis"]["trace"]


def read(server, trace: str) -> dict:
    response = server.http.get(f"{trace}/trace.json")
    assert response.status_code == 200, response.text
    return response.json()


def picture(server, trace: str, number: int) -> Image.Image:
    response = server.http.get(f"{trace}/picture/{number}")
    assert response.headers["content-type"] == "image/jpeg"
    return Image.open(io.BytesIO(response.content))


def test_a_trace_shows_every_step(server):
    server.script(*IMAGE_TURNS)
    trace = trace_of(server.ask(image("text.png"), text("How many?")))
    page = read(server, trace)
    assert (page["answer"], page["status"], page["question"]) == ("24", "answered", "How many?")
    assert page["messages"][0]["parts"] == [{"media": 0}, {"text": "How many?"}]
    names = [step["call"]["operation"] for step in page["steps"] if step["call"]]
    assert names == ["zoom", "segment", "properties", "read_text", "properties"]
    assert page["steps"][0]["text"] == "I <look>."
    assert page["steps"][-1]["text"] == "So.<answer>24</answer>"
    zoom, segment, properties, lines, failed, _ = page["steps"]
    assert [each["caption"] for each in zoom["pictures"]] == ["where it looked", "what it saw"]
    [mask] = segment["pictures"]
    assert mask["points"] == [[140, 160]]
    assert mask["boxes"][0]["label"].startswith("score ")
    assert properties["pictures"][0]["caption"] == "properties of this mask"
    assert len(lines["pictures"][0]["boxes"]) == len(lines["observation"]["content"]["lines"]) > 0
    assert failed["pictures"] == []
    assert "mask: expected 0..0, got 5" in failed["observation"]["error"]
    assert page["tokens"]["prompt"] > 0
    assert page["stage_ms"]["decode"] > 0
    numbers = [each["number"] for step in page["steps"] for each in step["pictures"]]
    assert numbers == list(range(1, len(numbers) + 1))
    plain, marked = picture(server, trace, 0), picture(server, trace, mask["number"])
    assert plain.size == marked.size
    assert plain.tobytes() != marked.tobytes()


def test_a_trace_of_a_video(server):
    server.script(*VIDEO_TURNS)
    part = video(clip("carphone_pristine.mp4"))
    trace = trace_of(server.ask(part, text("When?")))
    localize, track, zoom, _ = read(server, trace)["steps"]
    assert localize["pictures"][0]["caption"] == "keyframe"
    began, *seen = track["pictures"]
    assert began["boxes"] == [{"box": [300, 200, 700, 800], "label": "asked"}]
    assert 1 <= len(seen) <= 8
    assert zoom["pictures"][0]["time_s"] == 0.5
    for each in (*track["pictures"], *zoom["pictures"]):
        shown = picture(server, trace, each["number"])
        assert max(shown.size) <= LONGEST_SIDE
        assert shown.width / shown.height == pytest.approx(each["width"] / each["height"], rel=0.02)


def test_a_trace_of_a_conversation(server):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [image(), text("How many?")]},
        {"role": "assistant", "content": "24", "reasoning_content": "I count."},
        {"role": "user", "content": "Sure?"},
    ]
    answer = server.client.chat.completions.create(
        model="unit", messages=messages, max_tokens=5, seed=1
    )
    page = read(server, trace_of(answer))
    assert [message["role"] for message in page["messages"]] == ["user", "assistant", "user"]
    assert page["messages"][1] | {"calls": []} == {
        "role": "assistant",
        "parts": [{"text": "24"}],
        "thought": "I count.",
        "calls": [],
    }
    assert page["question"] == "Sure?"
    assert page["status"] == "truncated_max_tokens"
    assert page["unfinished"]


def test_pages_let_nothing_else_in(server):
    trace = trace_of(server.ask(image(), text("x"), max_tokens=2))
    for path in (trace, f"{trace}/trace.json", f"{trace}/picture/0", "/viewer/viewer.js"):
        headers = server.http.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'")
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
    page = server.http.get(trace).text
    assert "http" not in page.replace("http-equiv", "")
    script = server.http.get("/viewer/viewer.js").text
    assert "innerHTML" not in script
    assert "insertAdjacentHTML" not in script
    assert script.count("http") == script.count("http://www.w3.org/2000/svg") == 1


@pytest.mark.parametrize("path", ["", "/trace.json", "/picture/0"])
def test_an_unknown_trace_is_not_found(server, path):
    response = server.http.get(f"/trace/nobody-knows{path}")
    assert response.status_code == 404
    assert "expected" in response.json()["error"]["message"]


def test_a_picture_that_is_not_there(server):
    trace = trace_of(server.ask(text("x"), max_tokens=2))
    assert server.http.get(f"{trace}/picture/0").status_code == 404
    assert server.http.get(f"{trace}/picture/-1").status_code == 404


def test_the_oldest_traces_leave_with_their_media(agent):
    with running(agent, trace_bytes=20_000) as server:
        first = trace_of(server.ask(text("one"), max_tokens=2))
        assert server.http.get(first).status_code == 200
        count = 20_000 // server.service.traces.num_bytes + 2
        later = [trace_of(server.ask(text(f"{i}"), max_tokens=2)) for i in range(count)]
        assert server.http.get(first).status_code == 404
        assert server.http.get(later[-1]).status_code == 200
        assert 0 < server.service.traces.num_bytes <= 20_000
        # A picture is larger than the budget: no trace, and nothing stays in the store.
        answer = server.ask(image(), text("x"), max_tokens=2)
        assert trace_of(answer) is None
        assert server.service.ledger.num_media == 0


def test_no_traces_are_kept_without_a_budget(agent):
    with running(agent, trace_bytes=0) as server:
        assert trace_of(server.ask(text("x"), max_tokens=2)) is None
        assert len(server.service.traces) == 0


def test_a_ring_counts_what_it_keeps(server):
    trace = trace_of(server.ask(image(), text("x"), max_tokens=2)).removeprefix("/trace/")
    ring = server.service.traces
    record = ring.get(trace)
    size = len(server.agent.tools.store.encoded(record.media_ids[0]))
    before = ring.num_bytes
    twin = replace(record, id="twin")
    assert ring.add(twin)
    assert ring.num_bytes - before == record.num_bytes + size
    assert record.num_bytes >= len(record.page)
    assert json.loads(record.page)["id"] == trace
