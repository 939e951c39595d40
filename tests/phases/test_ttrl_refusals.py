"""What is not published, and why: corridor, gradient, gate, canary, settings."""

import math
import operator
from dataclasses import replace

import pytest

from pixelis_fast.corridor import CorridorConfig
from pixelis_fast.phases.ttrl_types import TtrlConfig, TtrlStatus
from tests.phases.ttrl_fixtures import NARROW, VERSION, coins_of, events, greedy, raising, served


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
    corridor = CorridorConfig(low=0.001, high=0.01, searches=6)
    learning = bench(corridor=corridor)
    event = learning.step()
    assert event.status is TtrlStatus.PUBLISHED
    assert 0 < event.update["step"] < 1
    assert event.kl <= corridor.high < event.update["full_drift"]["exact"]
    assert 1 < event.update["num_measured"] <= 7
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


def test_a_group_that_nobody_votes_in_says_why(bench, monkeypatch):
    learning = bench()
    monkeypatch.setattr(learning.agent.tools, "submit", raising(RuntimeError("the tools are gone")))
    event = learning.step(0)
    assert event.status is TtrlStatus.ABSTAINED
    assert "4 of 4 failed" in event.reason
    assert "the tools are gone" in event.reason


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


def test_it_learns_from_the_base_alone(bench, tmp_path):
    """A fresh bank beside a bank that is served would be another policy than the one it trains."""
    learning = bench()
    learning.step(0)
    learning.close()
    with pytest.raises(ValueError, match=r"got .*ttrl-1.*publish.*random-0"):
        bench(folder=tmp_path / "another", beside=True)
    learning.agent.engine.publish(VERSION)
    assert bench(folder=tmp_path / "third", beside=True).step(1).status is TtrlStatus.PUBLISHED


def test_settings_are_checked():
    for change in ({"group": 1}, {"ema_decay": 1.5}, {"rank": 0}, {"learning_rate": 0.0}):
        with pytest.raises(ValueError, match=f"{next(iter(change))}: expected"):
            TtrlConfig(out="run", **change)
    with pytest.raises(ValueError, match="low: expected"):
        TtrlConfig(out="run", corridor=CorridorConfig(low=1.0))
