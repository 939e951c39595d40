"""A server with a learner beside it: questions are learned from, media let go, stats served."""

import threading
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from pixelis_fast.serve import learning as serve_learning
from pixelis_fast.serve.learning import ServingLearner
from tests.phases.ttrl_fixtures import VERSION, Bench, fresh, unit_agent
from tests.serve.running import ScriptedLoop, image, running, text, wait_for


@pytest.fixture(scope="module")
def agent():
    torch.set_num_threads(1)
    return unit_agent()


@contextmanager
def served(agent, folder):
    """A server whose learner runs scripted groups on the server's own loop."""
    kept = []

    @contextmanager
    def beside(service):
        with (
            Bench(fresh(agent), folder, learning_rate=1e-2) as bench,
            ServingLearner(service, bench.learner) as listening,
        ):
            kept[:] = [bench, listening]
            yield listening

    scripted = replace(agent, loop=ScriptedLoop(agent.loop))
    with running(scripted, beside=beside, trace_bytes=0) as server:
        yield server, *kept


def ended(server, bench, count):
    wait_for(lambda: bench.learner.num_queries >= count)
    wait_for(lambda: server.service.ledger.num_media == 0)


def test_an_answered_question_is_learned_from(agent, tmp_path, monkeypatch):
    monkeypatch.setattr(serve_learning, "PATIENCE_S", 0.2)
    with served(agent, tmp_path) as (server, bench, listening):
        answer = answered(server)
        assert answer.system_fingerprint == VERSION
        ended(server, bench, 1)
        wait_for(lambda: listening.stats().steps == 1)
        assert listening.stats().published == 1
        assert server.service.fingerprint == f"{VERSION}+ttrl-1"
        assert bench.memory.ids("alice") == [f"{answer.id}#0"]
        assert "pixelis_ttrl_published_total 1.0" in server.http.get("/metrics").text
        again = server.ask(image(), text("How many?"), max_tokens=4)
        assert again.system_fingerprint == f"{VERSION}+ttrl-1"


def test_a_full_queue_forgets_and_holds_nobody_up(agent, tmp_path, monkeypatch):
    with served(agent, tmp_path) as (server, bench, listening):
        gate = threading.Event()
        step = bench.learner.step
        monkeypatch.setattr(bench.learner, "step", lambda *a, **k: gate.wait(60) and step(*a, **k))
        listening._queue.maxsize = 1
        for _ in range(4):
            answered(server)
        stats = listening.stats()
        assert stats.heard == 4
        assert stats.forgotten >= 2
        gate.set()
        ended(server, bench, stats.heard - stats.forgotten)


def test_an_error_of_the_learner_leaves_the_server_serving(agent, tmp_path, monkeypatch):
    with served(agent, tmp_path) as (server, bench, listening):
        monkeypatch.setattr(bench.learner, "step", lambda *a, **k: 1 // 0)
        answered(server)
        wait_for(lambda: listening.stats().failed == 1)
        answered(server)
        wait_for(lambda: server.service.ledger.num_media == 0)
        assert listening.stats().heard == 1


def answered(server):
    server.script("<answer>24</answer>")
    answer = server.ask(image(), text("How many coins?"), user="alice")
    assert answer.choices[0].finish_reason == "stop"
    return answer
