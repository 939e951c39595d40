"""A server with a learner beside it: questions are learned from, media let go, stats served."""

import json
import os
import threading
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch

from pixelis_fast.phases.ttrl_types import TtrlConfig
from pixelis_fast.serve import learning as serve_learning
from pixelis_fast.serve.learning import ServingLearner
from pixelis_fast.serve.media import MediaUrl
from pixelis_fast.types import MediaKind, RolloutStatus, Sample, Trajectory
from tests.media import picture
from tests.phases.ttrl_fixtures import VERSION, Bench, coins_of, fresh, unit_agent
from tests.serve.running import MODEL, ScriptedLoop, image, running, text, wait_for


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


def test_a_question_is_heard_once_whatever_n_is(agent, tmp_path):
    with served(agent, tmp_path) as (server, bench, listening):
        for _ in range(3):
            server.script("<answer>24</answer>")
        answer = server.ask(image(), text("How many?"), user="alice", n=3)
        assert len(answer.choices) == 3
        ended(server, bench, 1)
        assert listening.stats().heard == 1
        assert bench.memory.ids("alice") == [f"{answer.id}#0"]


def test_half_a_character_is_refused_and_the_learning_goes_on(agent, tmp_path):
    with served(agent, tmp_path) as (server, _, listening):
        json_body = {"Content-Type": "application/json"}
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "user": "HALF"}
        content = json.dumps(body).replace("HALF", "\\ud800")
        refused = server.http.post("/v1/chat/completions", content=content, headers=json_body)
        assert refused.status_code == 400
        assert "expected strings of whole characters" in refused.text
        whole = json.dumps(body).replace("HALF", "\\ud83d\\ude00")
        answer = server.http.post("/v1/chat/completions", content=whole, headers=json_body)
        assert answer.status_code == 200
        assert listening.stats().failed == 0


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


def test_it_stands_back_behind_a_server_that_stands_back_already():
    """A niceness cannot be lowered again without rights."""
    found = []

    def work():
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        serve_learning.stand_back()
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [19]


def test_a_thread_that_could_not_begin_counts_as_failed(agent, tmp_path, monkeypatch):
    monkeypatch.setattr(serve_learning, "stand_back", lambda: 1 // 0)
    with served(agent, tmp_path) as (server, _, listening):
        wait_for(lambda: listening.stats().failed == 1)
        answered(server)
        wait_for(lambda: server.service.ledger.num_media == 0)


def test_what_is_heard_while_the_learner_fails_is_let_go(agent, tmp_path, monkeypatch):
    """Media that nobody lets go of again would stay for as long as the server runs."""
    with served(agent, tmp_path) as (server, bench, listening):
        monkeypatch.setattr(bench.learner, "step", lambda *a, **k: 1 // 0)
        ledger = server.service.ledger
        media = ledger.add(picture("coins.png").read_bytes(), MediaUrl("", MediaKind.IMAGE, ""))
        hold = ledger.hold

        def hold_while_it_fails(media_ids):
            hold(media_ids)
            listening._queue.put((Sample("before", (), "What?"), "alice"))
            listening._thread.join(0.5)

        monkeypatch.setattr(ledger, "hold", hold_while_it_fails)
        sample = Sample("odd", (media,), "How many?")
        listening.hear(Trajectory(sample, VERSION, 0, status=RolloutStatus.ANSWERED), "alice")
        ledger.release([media.id])
        wait_for(lambda: ledger.num_media == 0)


def test_a_client_that_sends_a_canarys_picture_does_not_take_it_away(agent, tmp_path):
    canary = [coins_of(fresh(agent), 100)]
    config = TtrlConfig(out=str(tmp_path), group=4, rank=2)
    beside = partial(serve_learning.learning, config=config, canary=canary)
    scripted = replace(agent, loop=ScriptedLoop(agent.loop))
    with running(scripted, beside=beside, trace_bytes=0) as server:
        server.ask(image(), text("How many?"), max_tokens=4)
        server.wait_until_idle()
        assert canary[0].media[0].id in agent.tools.store


def answered(server):
    server.script("<answer>24</answer>")
    answer = server.ask(image(), text("How many coins?"), user="alice")
    assert answer.choices[0].finish_reason == "stop"
    return answer
