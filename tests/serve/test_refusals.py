"""A request that the loop takes in part only: its client gets one error, others go on."""

import openai
import pytest

from pixelis_fast.loop import LoopClosedError, QueueFullError
from tests.serve.running import text

LONG = {"max_tokens": 400, "extra_body": {"pixelis": {"tools": "none"}}}


@pytest.fixture
def refuse_the_second(server, monkeypatch):
    """The loop takes one completion, refuses the next with this error, and takes what follows."""

    def arm(error: Exception) -> None:
        take, answers = server.agent.loop.submit, iter([None, error])

        def submit(request, **options):
            refusal = next(answers, None)
            if refusal is not None:
                raise refusal
            return take(request, **options)

        monkeypatch.setattr(server.agent.loop, "submit", submit)

    return arm


@pytest.mark.parametrize(
    ("error", "status", "code", "message"),
    [
        (QueueFullError("queue: full"), 429, "server_busy", "server: queue: full"),
        (LoopClosedError("loop: closed"), 503, "not_running", "server: loop: closed"),
        (ValueError("no prompt"), 400, None, "messages: no prompt"),
    ],
)
def test_a_completion_that_is_refused_ends_those_that_were_taken(
    server, refuse_the_second, error, status, code, message
):
    refuse_the_second(error)
    before = server.agent.loop.stats().cancelled
    with pytest.raises(openai.APIStatusError, match=message) as caught:
        server.ask(text("Hi"), n=2, seed=1, **LONG)
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert server.agent.loop.stats().cancelled == before + 1
    assert server.ask(text("Hi"), max_tokens=2).choices
    server.wait_until_idle()


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: secret"), KeyError("secret")])
def test_an_error_nobody_foresaw_is_the_servers(server, refuse_the_second, error, caplog):
    """Not a loop that is closed: the client learns its kind, the log the whole of it."""
    refuse_the_second(error)
    with pytest.raises(openai.InternalServerError) as caught:
        server.ask(text("Hi"), n=2, seed=1, **LONG)
    assert f"expected an answer, got {type(error).__name__}" in caught.value.message
    assert "secret" not in caught.value.message
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [error]
    assert server.ask(text("Hi"), max_tokens=2).choices
    server.wait_until_idle()
