"""What one request's prompt costs the others, and pictures looked at before anyone asks."""

import secrets
import threading

import pytest

from tests.loop_fixtures import ANSWER, READ
from tests.serve.running import MODEL, PATIENCE_S, image, make_agent, running, text, wait_for

LONG = "<answer>" + "one two three four " * 20 + "</answer>"
WORDS = 700
PROMPT = "word " * WORDS


class Forwards:
    """What each of an engine's forwards computed: tokens of prompts, and of how many streams.

    The first forwards of a stream alone go through; the next waits for `go_on`.
    """

    ALONE = 5

    def __init__(self, engine, monkeypatch) -> None:
        self.told: list[tuple[int, int]] = []
        self.waits, self.go_on = threading.Event(), threading.Event()
        self._engine, self._extend = engine, engine.extend
        monkeypatch.setattr(engine, "extend", self)

    def __call__(self, sessions, chunks, **options):
        if self.num_alone == self.ALONE:
            self.waits.set()
            assert self.go_on.wait(PATIENCE_S)
        opening = [
            self._engine.num_new(chunk, session=session)
            for session, chunk in zip(sessions, chunks, strict=True)
            if chunk.opens_turn
        ]
        self.told.append((sum(opening), len(chunks) - len(opening)))
        return self._extend(sessions, chunks, **options)

    @property
    def num_alone(self) -> int:
        return sum(size == 0 for size, _ in self.told)


@pytest.mark.parametrize("most", [64, 256])
def test_a_stream_goes_on_beside_a_long_prompt(agent, monkeypatch, most):
    """No forward has more of a prompt than the budget, and the stream has a token in each."""
    forwards = Forwards(agent.engine, monkeypatch)
    with running(agent, prefill_tokens=most) as server:
        stream_beside(server, forwards)
    assert max(size for size, _ in forwards.told) <= most
    beside = [size for size, streams in forwards.told if size and streams]
    assert sum(beside) >= WORDS
    assert len(beside) >= WORDS / most


def test_without_a_budget_a_prompt_is_computed_at_once(agent, monkeypatch):
    forwards = Forwards(agent.engine, monkeypatch)
    with running(agent) as server:
        stream_beside(server, forwards)
    assert max(size for size, _ in forwards.told) >= WORDS


def stream_beside(server, forwards: Forwards) -> None:
    """A stream in whose middle another client's long prompt arrives."""
    server.script(LONG)
    messages = [{"role": "user", "content": "Hi"}]
    stream = server.client.chat.completions.create(
        model=MODEL, messages=messages, max_tokens=400, stream=True
    )
    # Between two forwards the loop takes in what is queued: only within one is it seen to queue.
    assert forwards.waits.wait(PATIENCE_S)
    # Under a tenant of its own: no earlier test's kept prompt supplies it.
    options = {"max_tokens": 2, "user": secrets.token_hex(4)}
    asked = threading.Thread(target=server.ask, args=[text(PROMPT)], kwargs=options)
    asked.start()
    wait_for(lambda: server.agent.loop.stats().queued == 1)
    forwards.go_on.set()
    assert sum(1 for _ in stream) > 1
    asked.join()


def test_pictures_may_be_looked_at_when_they_arrive(monkeypatch):
    """By the real tools, before a call names one; what it then reads is the same."""
    found = []
    for ahead in (False, True):
        agent = make_agent()
        with running(agent, prefetch_arrivals=ahead) as server:
            server.script(ANSWER)
            server.ask(image("coins.png"), text("How many?"), max_tokens=300)
            assert (agent.loop.stats().prefetches > 0) == ahead
            server.script(READ, ANSWER)
            answer = server.ask(image("text.png"), text("What does it say?"), max_tokens=300)
            found.append((answer.choices[0].message.content, shown(server, answer)))
            assert agent.loop.stats().prefetch_used > 0
    assert found[0] == found[1]


def shown(server, answer) -> list[dict]:
    """What the tools told, as the trace has it."""
    trace = answer.choices[0].model_extra["pixelis"]["trace"]
    steps = server.http.get(f"{trace}/trace.json").json()["steps"]
    return [step["observation"]["content"] for step in steps if step["observation"]]
