"""The load bench: what it sends, what it counts as an error, and one small run to the end."""

import json
import random

import pytest

from bench.serve import Memory, Reading, draw_asks, main


def test_the_same_seed_draws_the_same_requests():
    first, again = (draw_asks(random.Random(3), model="m", count=12) for _ in range(2))
    assert first == again
    assert {each.kind for each in first} == {"text", "picture", "fresh picture"}
    assert len({each.body for each in first}) == 12
    row = json.loads(first[0].body)
    assert (row["model"], row["seed"], row["stream"]) == ("m", 0, True)


def read(*events: str) -> Reading:
    reading = Reading()
    for event in events:
        reading.take(f"data: {event}")
        reading.take("")
    return reading


CHUNK = '{"choices":[{"delta":{"content":"24"}}],"usage":null}'
USAGE = '{"choices":[],"usage":{"completion_tokens":3}}'


def test_a_whole_stream_is_an_answer():
    answer = read(CHUNK, USAGE, "[DONE]").answer()
    assert (answer.text, answer.tokens, answer.error) == ("24", 3, None)
    assert 0 < answer.ttft_ms <= answer.total_ms
    assert 0 < answer.pause_ms <= answer.total_ms - answer.ttft_ms + 1e-6


@pytest.mark.parametrize(
    "events",
    [(), (CHUNK,), (CHUNK, USAGE), (CHUNK, "[DONE]"), (CHUNK, '{"error":{"message":"x"}}')],
    ids=["nothing", "cut", "no end", "no usage", "error"],
)
def test_any_other_stream_is_an_error(events):
    assert read(*events).answer().error is not None


def test_the_slope_leaves_out_the_warm_up():
    memory = Memory(list(range(100)), [500.0 * (n < 40) + 0.02 * n for n in range(100)])
    assert memory.slope_mb() == pytest.approx(20.0)


def test_a_small_run_ends_with_its_document(capsys):
    arguments = ["--quick", "--requests", "8", "--clients", "4", "--policy", "unit"]
    assert main([*arguments, "--prefill-tokens", "64"]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["equal"]
    assert {case["arm"] for case in document["cases"]} == {"ours", "one at a time"}
    assert document["ratios"]["time per request"] > 0
    assert document["variant"] == "prefill-64"
    assert document["server"]["pixelis_loop_failed_total"] == 0
