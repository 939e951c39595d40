"""A learner cut at every point between an answer and its line in the log: nothing asked twice."""

import operator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pixelis_fast.phases import ttrl
from pixelis_fast.phases.ttrl_journal import JOURNAL
from pixelis_fast.phases.ttrl_learner import TtrlLearner
from pixelis_fast.phases.ttrl_types import TtrlConfig, TtrlStatus
from pixelis_fast.policy.adapters import AdapterBank
from pixelis_fast.voting import VotingConfig
from tests.phases.ttrl_fixtures import AGREED, RATE, Bench, ScriptedRun, coins_of, events, fresh

AT_ODDS = {"24": 2, "7": 2}


class Cut(BaseException):
    """What no handler may hold up."""


CUTS = {
    "journal": ("learner._journal", "write"),
    "snapshot": ("learner._files", "save"),
    "memory": ("memory", "add"),
    "log": ("learner.audit", "append"),
    "end": ("learner._journal", "clear"),
}
"""The call before which the process ends, in their order."""


@dataclass(frozen=True)
class Kind:
    """How the query ends that is cut."""

    status: TtrlStatus
    config: dict
    answers: dict


KINDS = {
    "published": Kind(TtrlStatus.PUBLISHED, {}, AGREED),
    "abstained": Kind(TtrlStatus.ABSTAINED, {}, AT_ODDS),
    "waiting": Kind(TtrlStatus.WAITING, {"queries_per_update": 3}, AGREED),
    "between snapshots": Kind(TtrlStatus.PUBLISHED, {"snapshot_every": 9}, AGREED),
}
CASES = [
    (kind, cut)
    for kind in KINDS
    for cut in CUTS
    if cut != "snapshot" or kind in ("published", "waiting")
]


def step(learning: Bench, number: int, kind: Kind):
    """Query 1 ends as the kind says, others in agreement."""
    learning.run.answers = kind.answers if number == 1 else AGREED
    return learning.step(number)


def cut_at(patch: pytest.MonkeyPatch, learning: Bench, cut: str) -> None:
    place, name = CUTS[cut]
    whose = operator.attrgetter(place)(learning)
    before = getattr(whose, name)

    def call(*arguments, **options):
        if cut == "log" and arguments[0] != "query":
            return before(*arguments, **options)
        raise Cut

    patch.setattr(whose, name, call)


@dataclass(frozen=True)
class End:
    """What three queries came to."""

    told: list[tuple]
    remembered: tuple
    bank: AdapterBank
    ema: AdapterBank


def end_of(learning: Bench) -> End:
    updater = learning.updater
    return End(told(learning), remembered(learning), updater.bank.copy(), updater.ema.copy())


def told(learning: Bench) -> list[tuple]:
    rows = events(learning, "query")
    return [(row["query"], row["status"], row["answer"]) for row in rows]


def remembered(learning: Bench) -> tuple:
    """Of query 1, as far as it is the same to the bit in every run."""
    near = learning.memory.nearest(learning.parts.keys(coins_of(learning.agent, 1)), 3, "lab")
    [found] = [each.experience for each in near if each.experience.id == "coins-1#1"]
    trajectory, key = found.trajectory, found.key
    embeddings = [step.embedding for step in trajectory.steps]
    vectors = key.text_T.tolist(), key.pixel_P.tolist()
    return trajectory.ids, trajectory.logprobs, embeddings, vectors, found.outcome, found.visfid


@pytest.fixture(scope="module")
def uncut(agent, tmp_path_factory):
    """What a kind's three queries come to where nobody cuts."""
    found = {}

    def run(name: str):
        if name not in found:
            kind = KINDS[name]
            folder = tmp_path_factory.mktemp("uncut")
            with Bench(fresh(agent), folder, learning_rate=RATE, **kind.config) as learning:
                ends = [step(learning, number, kind).status for number in range(3)]
                assert ends[1:] == [kind.status, TtrlStatus.PUBLISHED]
                found[name] = end_of(learning)
        return found[name]

    return run


@pytest.mark.parametrize(("name", "cut"), CASES)
def test_a_cut_learner_ends_as_one_that_nobody_cut(bench, monkeypatch, uncut, name, cut):
    kind = KINDS[name]
    expected = uncut(name)
    learning = bench(**kind.config)
    step(learning, 0, kind)
    with monkeypatch.context() as patch:
        cut_at(patch, learning, cut)
        with pytest.raises(Cut):
            step(learning, 1, kind)
    waiting = [lesson.state() for lesson in learning.learner._pending]
    learning.close()
    resumed = bench(**kind.config)
    first = resumed.learner.num_queries
    is_kept = cut not in ("journal", "snapshot")
    assert first == (2 if is_kept else 1)
    assert told(resumed) == expected.told[:first]
    assert [lesson.state() for lesson in resumed.learner._pending] == waiting[:first]
    assert resumed.memory.ids("lab") == [f"coins-{n}#{n}" for n in range(first)]
    for number in range(first, 3):
        step(resumed, number, kind)
    asked = [seed for seed, _, _ in (*learning.run.calls, *resumed.run.calls)]
    assert len(asked) - len(set(asked)) == (not is_kept)
    assert resumed.memory.ids("lab") == [f"coins-{n}#{n}" for n in range(3)]
    assert not (Path(resumed.config.out) / JOURNAL).exists()
    versions = [row["version"] for row in events(resumed, "publish")]
    assert len(set(versions)) == len(versions)
    end = end_of(resumed)
    assert end.told == expected.told
    if is_kept:
        assert end.remembered == expected.remembered
    if name == "published":
        # Elsewhere the uncut run's caches are warmer, and its sums end in other bits.
        assert end.bank.equals(expected.bank)
        assert end.ema.equals(expected.ema)


def test_a_stream_that_never_learned_goes_on_too(agent, tmp_path, monkeypatch):
    """It has no snapshot: memory and log alone say how far it came."""
    monkeypatch.setattr(ttrl, "AgentRunner", ScriptedRun)
    monkeypatch.setattr(TtrlLearner, "close", lambda self: self.audit.close())
    config = TtrlConfig(str(tmp_path), group=4, rank=2, voting=VotingConfig(gate=1.0))
    samples = [coins_of(fresh(agent), number) for number in range(3)]
    cut = ttrl.learn_from(agent, config, samples)
    assert [next(cut).query for _ in range(2)] == [0, 1]
    cut.close()
    left = list(ttrl.learn_from(agent, config, samples))
    assert [(event.query, event.sample_id) for event in left] == [(2, "coins-2")]
    assert list(ttrl.learn_from(agent, config, samples)) == []


def test_a_run_without_snapshots_is_held_against_its_settings(bench):
    learning = bench()
    learning.run.answers = AT_ODDS
    learning.step(0)
    learning.learner._is_whole = False
    learning.close()
    with pytest.raises(ValueError, match=r"resume: expected the settings of the run in .* rank"):
        TtrlLearner(replace(learning.config, rank=3), learning.parts)
    learning.agent.engine.publish("another")
    with pytest.raises(ValueError, match="resume: expected the policy 'unit#random-0'"):
        TtrlLearner(learning.config, learning.parts)


def test_a_budget_that_was_spent_between_snapshots_stays_spent(bench):
    settings = {"lessons_per_tenant": 1, "snapshot_every": 9}
    learning = bench(**settings)
    assert learning.step(0).status is TtrlStatus.PUBLISHED
    learning.learner._is_whole = False
    learning.close()
    assert bench(**settings).step(1).status is TtrlStatus.OVER_BUDGET
