"""The learner on a real (random) policy and real tools; only the words of a group are scripted."""

import json
import math
import operator
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pixelis_fast import snapshots
from pixelis_fast.audit import AuditLog, read_events, verify
from pixelis_fast.corridor import CorridorConfig
from pixelis_fast.phases.ttrl_learner import TtrlLearner
from pixelis_fast.phases.ttrl_state import load_state
from pixelis_fast.phases.ttrl_summary import summarize
from pixelis_fast.phases.ttrl_types import TtrlConfig, TtrlStatus
from pixelis_fast.policy.adapters import AdapterBank
from pixelis_fast.policy.sampling import Sampling
from pixelis_fast.rollout import wait_for
from pixelis_fast.types import Sample
from pixelis_fast.voting import VoteKind, VotingConfig
from tests.media import picture
from tests.phases.ttrl_fixtures import VERSION, Bench, coins_of, fresh, unit_agent

RATE = 1e-2
NARROW = CorridorConfig(low=0.0005, high=0.001, bisections=0)
"""One step at RATE goes far beyond it."""


@pytest.fixture(scope="module")
def agent():
    torch.set_num_threads(1)
    return unit_agent()


@pytest.fixture
def bench(agent, tmp_path):
    made = []

    def make(*, folder: Path = tmp_path / "run", beside: bool = False, **config) -> Bench:
        served = agent if beside else fresh(agent)
        made.append(Bench(served, folder, **{"learning_rate": RATE} | config))
        return made[-1]

    yield make
    for each in made:
        each.close()


def served(learner_bench: Bench) -> AdapterBank | None:
    return learner_bench.agent.engine.shelf.serving().bank


def greedy(learner_bench: Bench) -> list[int]:
    """What is served says to a question nobody asked yet."""
    agent = learner_bench.agent
    config = replace(agent.config.rollout, sampling=Sampling(), max_tokens=24)
    sample = coins_of(agent, 77)
    return agent.rollout.with_config(config).run([sample])[0].ids


def events(learner_bench: Bench, kind: str) -> list[dict]:
    path = Path(learner_bench.config.out) / "audit.jsonl"
    return [row["data"] for row in read_events(path) if row["kind"] == kind]


def test_a_query_is_answered_learned_published_and_remembered(bench):
    learning = bench()
    start, ema = learning.updater.bank.copy(), learning.updater.ema.copy()
    event = learning.step()
    assert (event.answer, event.status, event.num_answered) == ("24", TtrlStatus.PUBLISHED, 4)
    assert event.version == learning.agent.engine.version == f"{VERSION}+ttrl-1"
    assert not learning.updater.bank.equals(start)
    assert served(learning).equals(learning.updater.bank)
    decay = learning.config.ema_decay
    ema.ema_update(learning.updater.bank, decay)
    assert learning.updater.ema.equals(ema)
    assert 0 < event.kl < learning.config.corridor.high
    assert event.update["drift"]["sampled"] >= 0
    assert event.update["pause_s"] < 1
    [row] = events(learning, "query")
    assert row["update"]["fingerprint"] == learning.updater.bank.fingerprint()
    assert row["status"] == "published"
    assert events(learning, "publish")[0]["version"] == event.version
    assert learning.memory.ids("lab") == ["coins-0#0"]


def test_the_update_makes_the_label_and_the_exemplar_likelier(bench):
    """The log-probability of what was agreed on rises more than that of the odd answer."""
    learning = bench(imitation_weight=0.0, corridor=CorridorConfig(low=0.5, high=1.0, beta=1e-3))

    def answers() -> list[float]:
        group = learning.run([coins_of(learning.agent, 0)] * 4, seed=0, temperature=1.0)
        return [sum(trajectory.logprobs[-4:]) for trajectory in group]

    before = answers()
    for _ in range(2):
        assert learning.step(0).status is TtrlStatus.PUBLISHED
    gains = [last - first for first, last in zip(before, answers(), strict=True)]
    assert min(gains[:3]) > gains[3]


def test_the_trainer_sees_the_rollouts_probabilities(bench):
    """On-policy to the last bits: nothing is clipped and the ratio is one."""
    learning = bench()
    for number in range(2):
        losses = learning.step(number).update["losses"]
        assert losses["clipped_low"] == losses["clipped_high"] == 0
        assert losses["mismatch"] < 1e-4


def test_a_breach_of_the_corridor_drops_the_update_and_changes_nothing(bench):
    learning = bench()
    learning.step(0)
    learning.parts.updater.controller.config = NARROW
    learning.updater.config = replace(learning.config, corridor=NARROW)
    before, ema = learning.updater.bank.fingerprint(), learning.updater.ema.fingerprint()
    said, version = greedy(learning), learning.agent.engine.version
    moments = str(learning.updater.optimizer.state_dict())
    event = learning.step(1)
    assert (event.status, event.version) == (TtrlStatus.DROPPED, version)
    assert event.kl > NARROW.high
    assert learning.updater.bank.fingerprint() == before == served(learning).fingerprint()
    assert learning.updater.ema.fingerprint() == ema
    assert str(learning.updater.optimizer.state_dict()) == moments
    assert greedy(learning) == said
    assert events(learning, "query")[-1]["status"] == "dropped"
    assert len(events(learning, "publish")) == 1


def test_a_step_too_far_is_scaled_back_into_the_corridor(bench):
    corridor = CorridorConfig(low=0.001, high=0.01, bisections=6)
    learning = bench(corridor=corridor)
    event = learning.step()
    assert event.status is TtrlStatus.PUBLISHED
    assert 0 < event.update["step"] < 1
    assert event.kl <= corridor.high < event.update["full_drift"]["exact"]
    assert event.update["num_measured"] == 7
    assert learning.updater.controller.beta > corridor.beta


def test_without_safety_nothing_holds_it(bench):
    learning = bench(corridor=NARROW, safety=False)
    event = learning.step()
    assert event.status is TtrlStatus.PUBLISHED
    assert event.kl > NARROW.high
    assert event.update["losses"]["beta"] == 0


def test_a_gradient_that_is_no_number_is_skipped_and_logged(bench):
    learning = bench()
    learning.step(0)
    before = learning.updater.bank.fingerprint()
    moments = str(learning.updater.optimizer.state_dict())
    first = next(learning.updater.bank.parameters())
    handle = first.register_hook(lambda gradient: gradient * math.nan)
    event = learning.step(1)
    handle.remove()
    assert event.status is TtrlStatus.SKIPPED
    assert "gradient norm nan" in event.reason
    assert learning.updater.bank.fingerprint() == before == served(learning).fingerprint()
    assert str(learning.updater.optimizer.state_dict()) == moments
    assert events(learning, "query")[-1]["update"]["gradient_norm"] == "nan"
    assert learning.step(2).status is TtrlStatus.PUBLISHED


def test_below_the_gate_it_abstains_answers_and_remembers(bench):
    learning = bench(answers={"24": 2, "7": 2})
    before = learning.updater.bank.fingerprint()
    event = learning.step()
    assert event.status is TtrlStatus.ABSTAINED
    assert event.answer in {"24", "7"}
    assert event.update == {}
    assert learning.updater.bank.fingerprint() == before
    assert learning.agent.engine.shelf.versions() == [VERSION]
    [neighbour] = learning.memory.nearest(
        learning.parts.keys(coins_of(learning.agent)), 1, tenant="lab"
    )
    assert neighbour.experience.outcome.success == 0


def test_a_canary_that_became_worse_stops_the_publish(bench):
    learning = bench(canary=True)
    learning.run.canary = "7"
    before, ema = learning.updater.bank.fingerprint(), learning.updater.ema.fingerprint()
    event = learning.step(0)
    assert event.status is TtrlStatus.REFUSED
    assert "accuracy fell by 1.000" in event.reason
    assert learning.agent.engine.shelf.versions() == [VERSION]
    assert learning.updater.bank.fingerprint() == before
    assert learning.updater.ema.fingerprint() == ema
    learning.run.canary = "24"
    assert learning.step(1).status is TtrlStatus.PUBLISHED
    asked = [under for _, _, under in learning.run.calls if under]
    assert [each.rsplit("#")[-1] for each in asked] == [
        "random-0",
        "random-0+ttrl-1",
        "random-0+ttrl-2",
    ]


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


def test_a_tenant_has_its_budget_and_its_own_memory(bench):
    learning = bench(updates_per_tenant=1)
    assert learning.step(0, tenant="one").status is TtrlStatus.PUBLISHED
    assert learning.step(1, tenant="one").status is TtrlStatus.OVER_BUDGET
    assert learning.step(2, tenant="two").status is TtrlStatus.PUBLISHED
    assert learning.memory.ids("one") == ["coins-0#0", "coins-1#1"]
    assert learning.memory.ids("two") == ["coins-2#2"]
    assert [tenant for _, tenant, _ in learning.run.calls] == ["one", "one", "two"]


def test_what_one_tenant_teaches_may_be_kept_from_others(bench, tmp_path):
    """A tenant's own learner, poisoned: others are served the same bits as ever."""
    said = greedy(bench())
    bad = bench(folder=tmp_path / "bad", only_for="bad", answers={"7": 4}, beside=True)
    good = bench(folder=tmp_path / "good", only_for="good", beside=True)
    for number in range(2):
        assert bad.step(number, tenant="bad").version == f"{VERSION}+bad/ttrl-{number + 1}"
    assert good.learner.versions.serving == VERSION
    assert good.step(0, tenant="good").version == f"{VERSION}+good/ttrl-1"
    assert good.learner.versions.names() == [VERSION, f"{VERSION}+good/ttrl-1"]
    assert greedy(good) == said
    assert good.agent.engine.version == VERSION


def test_several_queries_make_one_update(bench):
    learning = bench(queries_per_update=3)
    statuses = [learning.step(number).status for number in range(4)]
    assert statuses == [TtrlStatus.WAITING] * 2 + [TtrlStatus.PUBLISHED, TtrlStatus.WAITING]
    assert learning.learner.num_updates == 1


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


@pytest.mark.parametrize(
    "config",
    [
        {"voting": VotingConfig(VoteKind.MAJORITY)},
        {"voting": VotingConfig(VoteKind.NO_RETRIEVAL)},
        {"retrieval": False},
    ],
    ids=["majority", "no neighbours in the vote", "no memory asked"],
)
def test_the_ablations_run(bench, config):
    learning = bench(**config)
    for number in range(2):
        assert learning.step(number).answer == "24"


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


def test_recomputed_layers_give_the_same_update(bench, tmp_path):
    expected = bench(folder=tmp_path / "plain").step(0).update["fingerprint"]
    again = bench(folder=tmp_path / "again", recompute=True)
    assert again.step(0).update["fingerprint"] == expected
    assert again.agent.policy.recompute
    again.agent.policy.recompute = False


def test_a_log_is_summed_up(bench):
    learning = bench(corridor=CorridorConfig(low=0.001, high=0.01, bisections=6))
    for number in range(2):
        learning.step(number)
    learning.run.answers = {"24": 2, "7": 2}
    learning.step(2)
    found = summarize(Path(learning.config.out) / "audit.jsonl")
    assert found.statuses == {"published": 2, "abstained": 1}
    assert found.num_updates == 2
    kls = [row["update"]["drift"]["exact"] for row in events(learning, "query") if row["update"]]
    assert found.kl_median == pytest.approx(sum(kls) / 2)
    assert found.share_not_above == 1
    assert found.share_inside == 1
    assert found.scaled_back >= 1
    assert found.update_s_median > 0


def test_a_log_is_summed_up_from_where_it_begins(tmp_path):
    """Somebody moved the log away: the next one begins with a resume."""
    settings = TtrlConfig(out="run", corridor=CorridorConfig(low=0.05)).run_settings()
    with AuditLog(tmp_path / "resumed.jsonl") as log:
        log.append("resume", settings=settings)
    assert summarize(tmp_path / "resumed.jsonl").num_queries == 0
    AuditLog(tmp_path / "empty.jsonl").close()
    with pytest.raises(ValueError, match="log: expected a learner's start or resume, got neither"):
        summarize(tmp_path / "empty.jsonl")


def test_other_settings_or_another_policy_do_not_resume(bench):
    learning = bench()
    learning.step(0)
    learning.close()
    with pytest.raises(ValueError, match=r"resume: expected the settings of the run in .* group"):
        load_state(replace(learning.config, group=9))
    learning.agent.engine.publish("another")
    with pytest.raises(ValueError, match="resume: expected the policy 'unit#random-0'"):
        TtrlLearner(learning.config, learning.parts)


def raising(error: BaseException):
    def call(*arguments, **options):
        raise error

    return call


BREAKS = {
    "gradient": ("updater", "_loss"),
    "drift": ("updater.controller", "observe"),
    "probes": ("updater.probes", "add"),
    "canary": ("learner.versions", "_canary"),
    "publish": ("parts.publisher", "publish"),
}


@pytest.mark.parametrize("part", BREAKS)
def test_an_update_that_breaks_off_is_undone_and_never_saved(bench, monkeypatch, part):
    """Ctrl-C, or memory that runs out: what passed neither corridor nor canary is not kept."""
    learning = bench(canary=True)
    learning.step(0)
    prints, moments = learning.updater.bank.fingerprint(), learning.updater.state()["optimizer"]
    moments = str(moments)
    place, name = BREAKS[part]
    with monkeypatch.context() as patch:
        whose = operator.attrgetter(place)(learning)
        patch.setattr(whose, name, raising(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            learning.step(1)
    assert learning.updater.bank.fingerprint() == prints == served(learning).fingerprint()
    assert str(learning.updater.state()["optimizer"]) == moments
    assert all(p.grad is None for p in learning.updater.bank.parameters())
    learning.close()
    resumed = bench(canary=True)
    assert resumed.updater.bank.fingerprint() == prints == served(resumed).fingerprint()
    assert resumed.learner.num_queries == 1
    assert resumed.step(1).status is TtrlStatus.PUBLISHED


def test_queries_whose_update_broke_off_are_asked_again(bench, monkeypatch):
    learning = bench(queries_per_update=2)
    for number in range(3):
        learning.step(number)
    with monkeypatch.context() as patch:
        patch.setattr(learning.updater, "_loss", raising(MemoryError("no room")))
        with pytest.raises(MemoryError):
            learning.step(3)
    learning.close()
    assert bench(queries_per_update=2).learner.num_queries == 2


def test_a_query_that_waits_for_its_update_needs_its_media_no_more(bench):
    """A server lets them go once the query is answered."""
    learning = bench(queries_per_update=2)
    agent = learning.agent
    media = (agent.tools.add_media(picture("coffee.png")),)
    first = Sample("coffee-0", media, "How many cups?")
    assert learning.learner.step(first, tenant="lab").status is TtrlStatus.WAITING
    agent.tools.store.forget(media[0].id)
    assert learning.step(1).status is TtrlStatus.PUBLISHED
    shown = {span.media_id for t in learning.updater.probes.trajectories for span in t.spans}
    assert set(learning.updater.probes.state()["patches"]) == shown


def test_a_canary_that_could_not_run_is_no_measure(bench, monkeypatch):
    """Neither of the candidate nor, for ever after, of what learning began with."""
    learning = bench(canary=True)
    canary, tools = learning.parts.canary, learning.agent.tools
    run = canary._run

    def run_without_tools(samples, **options):
        with monkeypatch.context() as patch:
            patch.setattr(tools, "submit", raising(RuntimeError("the tools are gone")))
            return run(samples, **options)

    with monkeypatch.context() as patch:
        patch.setattr(canary, "_run", run_without_tools)
        event = learning.step(0)
    assert event.status is TtrlStatus.REFUSED
    assert "2 of 2 failed" in event.reason
    assert "the tools are gone" in event.reason
    learning.run.canary = "7"
    assert "accuracy fell by 1.000" in learning.step(1).reason


def test_a_group_that_nobody_votes_in_says_why(bench, monkeypatch):
    learning = bench()
    monkeypatch.setattr(learning.agent.tools, "submit", raising(RuntimeError("the tools are gone")))
    event = learning.step(0)
    assert event.status is TtrlStatus.ABSTAINED
    assert "4 of 4 failed" in event.reason
    assert "the tools are gone" in event.reason


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


def test_only_a_budget_counts_tenants(bench):
    """A server's tenants come and go by the thousand."""
    learning = bench()
    for number in range(2):
        learning.step(number, tenant=f"tenant {number}")
    assert load_state(learning.config)["tenant_updates"] == {}


def test_it_learns_from_the_base_alone(bench, tmp_path):
    """A fresh bank beside a bank that is served would be another policy than the one it trains."""
    learning = bench()
    learning.step(0)
    learning.close()
    with pytest.raises(ValueError, match=r"got .*ttrl-1.*publish.*random-0"):
        bench(folder=tmp_path / "another", beside=True)
    learning.agent.engine.publish(VERSION)
    assert bench(folder=tmp_path / "third", beside=True).step(1).status is TtrlStatus.PUBLISHED


def test_killed_it_goes_on(bench, tmp_path):
    """Log whole, nothing remembered twice or lost; bank, average and counters of one moment."""
    folder, script = tmp_path / "killed", Path(__file__).with_name("ttrl_killed.py")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    done = [json.loads(process.stdout.readline())["query"] for _ in range(2)]
    process.send_signal(signal.SIGKILL)
    done += [json.loads(line)["query"] for line in process.stdout if line.endswith("\n")]
    process.wait()
    assert verify(folder / "audit.jsonl").num_events >= 1 + 2 * len(done)
    resumed = bench(folder=folder)
    assert resumed.learner.num_queries >= done[-1]
    prints = [row["fingerprint"] for row in events(resumed, "publish")]
    assert resumed.updater.bank.fingerprint() in prints[-2:]
    assert served(resumed).equals(resumed.updater.bank)
    first = resumed.learner.num_queries
    assert resumed.step(first).status is TtrlStatus.PUBLISHED
    assert resumed.memory.ids("lab") == [f"coins-{n}#{n}" for n in range(first + 1)]


def test_a_session_keeps_its_version_over_a_publish_in_the_running_loop(bench):
    """Requests before, during and after a publish share forwards; each is its own version's."""
    learning = bench()
    agent = learning.agent
    config = replace(agent.config.rollout, sampling=Sampling(), max_tokens=24, overlap=True)
    [request] = agent.rollout.with_config(config).requests([coins_of(agent, 77)])
    alone = {agent.engine.version: greedy(learning)}
    told = threading.Event()
    with agent.loop as loop:
        first = loop.submit(request, on_event=lambda event: told.set())
        assert told.wait(20)
        event = learning.step(0)
        second = loop.submit(request)
        found = wait_for([first, second])
    alone[event.version] = greedy(learning)
    assert [t.policy_version for t in found] == list(alone)
    assert [t.ids for t in found] == list(alone.values())


def test_settings_are_checked():
    for change in ({"group": 1}, {"ema_decay": 1.5}, {"rank": 0}, {"learning_rate": 0.0}):
        with pytest.raises(ValueError, match=f"{next(iter(change))}: expected"):
            TtrlConfig(out="run", **change)
    with pytest.raises(ValueError, match="low: expected"):
        TtrlConfig(out="run", corridor=CorridorConfig(low=1.0))
