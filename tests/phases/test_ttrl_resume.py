"""What is kept and gone on from: snapshots, versions, a killed run, a reader."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pixelis_fast import snapshots
from pixelis_fast.audit import AuditError, read_events, verify
from pixelis_fast.phases.ttrl import behind, passing
from pixelis_fast.phases.ttrl_learner import TtrlLearner
from pixelis_fast.phases.ttrl_state import load_state
from pixelis_fast.phases.ttrl_types import TtrlStatus
from pixelis_fast.policy.adapters import AdapterBank
from pixelis_fast.policy.published import Published
from tests.phases.ttrl_fixtures import VERSION, coins_of, events, greedy, raising, served


def test_rollback_is_bitwise_and_learning_goes_on_from_there(bench):
    learning = bench()
    said, prints, emas = [], [], []
    for number in range(3):
        learning.step(number)
        said.append(greedy(learning))
        prints.append(learning.updater.bank.fingerprint())
        emas.append(learning.updater.ema.fingerprint())
    names = learning.learner.versions.names()
    learning.learner.rollback(names[1])
    assert learning.agent.engine.version == names[1]
    assert learning.updater.bank.fingerprint() == prints[0] == served(learning).fingerprint()
    assert learning.updater.ema.fingerprint() == emas[0]
    assert greedy(learning) == said[0]
    assert events(learning, "rollback") == [{"version": names[1], "fingerprint": prints[0]}]
    assert learning.step(3).version.endswith("+ttrl-4")
    learning.learner.rollback(names[0])
    assert served(learning) is None
    assert AdapterBank(learning.agent.policy.config, rank=2).equals(learning.updater.bank)
    with pytest.raises(ValueError, match="version: expected one of"):
        learning.learner.rollback("another")


def test_a_restart_can_go_back_to_every_version_that_has_a_snapshot(bench):
    """Bit for bit, and it learns on from there; what has no snapshot any more is refused."""
    learning, said, prints, emas = bench(keep_snapshots=3), [], [], []
    for number in range(4):
        learning.step(number)
        said.append(greedy(learning))
        prints.append(learning.updater.bank.fingerprint())
        emas.append(learning.updater.ema.fingerprint())
    learning.close()
    resumed = bench(keep_snapshots=3)
    names = [f"{VERSION}+ttrl-{number}" for number in range(1, 5)]
    assert resumed.learner.versions.names() == [VERSION, *names[1:]]
    with pytest.raises(ValueError, match="version: expected one of"):
        resumed.learner.rollback(names[0])
    for place in (1, 2):
        resumed.learner.rollback(names[place])
        assert resumed.agent.engine.version == names[place]
        assert resumed.updater.bank.fingerprint() == prints[place]
        assert served(resumed).fingerprint() == prints[place]
        assert resumed.updater.ema.fingerprint() == emas[place]
        assert greedy(resumed) == said[place]
    told = [(row["version"], row["fingerprint"]) for row in events(resumed, "rollback")]
    assert told == [(names[1], prints[1]), (names[2], prints[2])]
    resumed.close()
    again = bench(keep_snapshots=3)
    assert again.learner.versions.serving == names[2]
    assert again.updater.bank.fingerprint() == prints[2]
    assert again.step(4).version == f"{VERSION}+ttrl-5"


def test_a_version_that_the_engine_let_go_of_is_fetched_from_its_snapshot(bench):
    """Learners of other tenants share its shelf."""
    learning, prints = bench(), []
    for number in range(2):
        learning.step(number)
        prints.append(learning.updater.bank.fingerprint())
    engine, names = learning.agent.engine, learning.learner.versions.names()
    for number in range(engine.config.keep_versions):
        engine.publish_bank(Published.of(learning.updater.ema, f"other-{number}"), salt="other")
    assert names[1] not in engine.shelf.versions()
    assert learning.learner.versions.names() == names
    learning.learner.rollback(names[1])
    assert engine.version == names[1]
    assert served(learning).fingerprint() == prints[0]
    assert learning.step(2).status is TtrlStatus.PUBLISHED


def test_a_version_has_one_snapshot(bench):
    """Queries that wait for an update, and updates that were dropped, push none out."""
    learning = bench(queries_per_update=2)
    for number in range(3):
        learning.step(number)
    learning.close()
    assert len(snapshots.snapshots(Path(learning.config.out) / "snapshots")) == 2
    assert load_state(learning.config)["num_queries"] == 3


def test_read_only_answers_and_leaves_no_trace(bench, tmp_path):
    learning = bench()
    learning.step(0)
    learning.close()
    out = Path(learning.config.out)
    files = sorted(path for path in out.rglob("*") if "memory" not in path.parts)
    before = {path: path.read_bytes() for path in files if path.is_file()}
    reading = bench(read_only=True)
    assert reading.updater.bank.equals(learning.updater.bank)
    event = reading.step(1)
    assert (event.status, event.answer) == (TtrlStatus.READ_ONLY, "24")
    assert event.version.endswith("+ttrl-1")
    assert {path: path.read_bytes() for path in before} == before
    assert reading.memory.ids("lab") == ["coins-0#0"]
    elsewhere = bench(folder=tmp_path / "new", read_only=True)
    assert elsewhere.step(1).answer == "24"
    assert not (tmp_path / "new").exists()


def test_another_stream_is_refused_and_a_reader_asks_all_of_it(bench):
    """What a folder has done is passed over only where it is the same."""
    learning = bench()
    agent, config, ours = learning.agent, learning.config, [0, 1]
    for number in ours:
        learning.step(number)
    learning.close()
    asked = [coins_of(agent, number) for number in (*ours, 2)]
    assert [each.id for each in behind(asked, config)] == ["coins-2"]
    assert not list(behind(asked[:1], config)), "a part of it: all done"
    with pytest.raises(ValueError, match=r"expected 'coins-1' as number 2, .* got 'coins-2'"):
        list(behind([asked[0], asked[2]], config))
    others = [coins_of(agent, number) for number in (7, 8)]
    reading = replace(config, read_only=True)
    assert [each.id for each in behind(others, reading)] == ["coins-7", "coins-8"]


def test_media_of_a_stream_go_behind_their_sample(agent, tmp_path):
    samples = []
    for sample in passing((coins_of(agent, number) for number in range(2)), agent.tools):
        assert sample.media[0].id in agent.tools.store
        samples.append(sample)
    assert len(samples) == 2
    assert samples[0].media[0].id not in agent.tools.store


def test_a_log_whose_end_was_taken_is_refused(bench):
    """The chain of what is left holds; the snapshot knows how many queries there were."""
    learning = bench()
    for number in range(2):
        learning.step(number)
    learning.close()
    log = Path(learning.config.out) / "audit.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if b'"kind":"query"' in line)
    log.write_bytes(b"".join(lines[: first + 1]))
    with pytest.raises(AuditError, match=r"a log of the 2 queries .* got 1"):
        bench()


def test_a_resumed_learner_does_what_it_would_have_done(bench, tmp_path):
    whole = bench(folder=tmp_path / "whole")
    expected = [whole.step(number) for number in range(3)]
    for part in (range(2), range(2, 3)):
        halves = bench(folder=tmp_path / "halves")
        assert halves.learner.num_queries == part[0]
        got = [halves.step(number) for number in part]
        halves.close()
        for number, event in zip(part, got, strict=True):
            assert event.status is expected[number].status
            assert event.update["fingerprint"] == expected[number].update["fingerprint"]
            assert event.kl == expected[number].kl
    assert halves.updater.ema.equals(whole.updater.ema)
    kinds = [row["kind"] for row in read_events(tmp_path / "halves" / "audit.jsonl")]
    assert (kinds[0], kinds.count("resume")) == ("start", 1)


def test_other_settings_or_another_policy_do_not_resume(bench):
    learning = bench()
    learning.step(0)
    learning.close()
    with pytest.raises(ValueError, match=r"resume: expected the settings of the run in .* group"):
        load_state(replace(learning.config, group=9))
    learning.agent.engine.publish("another")
    with pytest.raises(ValueError, match="resume: expected the policy 'unit#random-0'"):
        TtrlLearner(learning.config, learning.parts)


def test_queries_whose_update_broke_off_are_asked_again(bench, monkeypatch):
    learning = bench(queries_per_update=2)
    for number in range(3):
        learning.step(number)
    with monkeypatch.context() as patch:
        patch.setattr(learning.updater, "_loss", raising(MemoryError("no room")))
        with pytest.raises(MemoryError):
            learning.step(3)
    learning.close()
    resumed = bench(queries_per_update=2)
    assert resumed.learner.num_queries == 3, "the one before it has its answer"
    assert resumed.step(3).status is TtrlStatus.PUBLISHED
    taught = [trajectory.sample.id for trajectory in resumed.updater.probes.trajectories]
    assert taught == [f"coins-{number}" for number in range(4)], "and is learned from"


def test_a_kill_while_it_saves_leaves_the_snapshot_before(bench, monkeypatch):
    learning = bench(keep_snapshots=1)
    learning.step(0)
    with monkeypatch.context() as patch:
        patch.setattr(snapshots.os, "replace", raising(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            learning.learner.close()
    assert load_state(learning.config)["num_queries"] == 1
    learning.close()
    found = Path(learning.config.out) / "snapshots"
    assert len(snapshots.snapshots(found)) == 1


def test_killed_it_goes_on(bench, tmp_path):
    """Log whole, nothing remembered twice or lost; bank, average and counters of one moment."""
    folder, script = tmp_path / "killed", Path(__file__).with_name("ttrl_killed.py")
    answered = []
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    while len(answered) < 3:
        answered.append(json.loads(process.stdout.readline()))
    process.send_signal(signal.SIGKILL)
    answered += [json.loads(line) for line in process.stdout if line.endswith("\n")]
    process.wait()
    published = [row["query"] for row in answered if row["status"] == "published"]
    assert verify(folder / "audit.jsonl").num_events >= 1 + len(answered) + len(published)
    resumed = bench(folder=folder)
    first = resumed.learner.num_queries
    assert first > answered[-1]["query"], "an answer that was given is not asked for again"
    logged = {row["query"]: row["answer"] for row in events(resumed, "query")}
    assert list(logged) == list(range(first))
    assert len(events(resumed, "query")) == first
    assert logged.items() >= {row["query"]: row["answer"] for row in answered}.items()
    prints = [row["fingerprint"] for row in events(resumed, "publish")]
    assert resumed.updater.bank.fingerprint() in prints[-2:]
    assert served(resumed).equals(resumed.updater.bank)
    assert resumed.step(first).status is TtrlStatus.PUBLISHED
    assert resumed.memory.ids("lab") == [f"coins-{n}#{n}" for n in range(first + 1)]
