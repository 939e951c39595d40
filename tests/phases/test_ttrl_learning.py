"""What is learned, published and served; only the words of a group are scripted."""

import threading
from dataclasses import replace

import pytest

from pixelis_fast.corridor import CorridorConfig
from pixelis_fast.phases.ttrl_group import Group, lesson_of
from pixelis_fast.phases.ttrl_state import load_state
from pixelis_fast.phases.ttrl_types import TtrlConfig, TtrlStatus
from pixelis_fast.policy.sampling import Sampling
from pixelis_fast.rollout import wait_for
from pixelis_fast.types import RolloutStatus, Sample, Trajectory
from pixelis_fast.voting import Vote, VoteKind, VotingConfig
from tests.media import picture
from tests.phases.ttrl_fixtures import VERSION, coins_of, events, greedy, served

ANSWERED = RolloutStatus.ANSWERED


def test_a_query_is_answered_learned_published_and_remembered(bench):
    learning = bench()
    start, ema = learning.updater.bank.copy(), learning.updater.ema.copy()
    event = learning.step()
    assert (event.answer, event.status, event.num_answered) == ("24", TtrlStatus.PUBLISHED, 4)
    assert event.answers == ("24", "24", "24", "7")
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


def agreed_group(fidelities: tuple[float, ...], answers: tuple[str, ...]) -> Group:
    ends = [
        Trajectory(Sample("coins", (), "How many?"), VERSION, i, answer=answer, status=ANSWERED)
        for i, answer in enumerate(answers)
    ]
    vote = Vote("24", 1.0, (1.0,) * len(ends), (), 0, abstained=False)
    return Group(tuple(ends), fidelities, vote, 1.0, abstained=False)


def test_what_tells_a_unanimous_group_apart_weighs_little():
    """A hundredth of fidelity is noise; divided by its own spread it would be a whole advantage."""
    config = TtrlConfig(out="run")
    looked = (0.90, 0.91, 0.90, 0.91)
    agreed = lesson_of(agreed_group(looked, ("24",) * 4), "lab", config)
    little = config.fidelity_share * 0.005 / config.least_spread
    assert agreed.advantages == pytest.approx([-little, little, -little, little])
    apart = lesson_of(agreed_group(looked, ("24", "24", "24", "7")), "lab", config)
    assert min(apart.advantages) < -1.5
    assert min(apart.advantages[:3]) > 0.5
    whole = lesson_of(agreed_group(looked, ("24",) * 4), "lab", replace(config, least_spread=0))
    assert whole.advantages == pytest.approx([-1, 1, -1, 1])


def test_the_trainer_sees_the_rollouts_probabilities(bench):
    """On-policy to the last bits: nothing is clipped and the ratio is one."""
    learning = bench()
    for number in range(2):
        losses = learning.step(number).update["losses"]
        assert losses["clipped_low"] == losses["clipped_high"] == 0
        assert losses["mismatch_max"] <= 1e-6


def test_several_queries_make_one_update(bench):
    learning = bench(queries_per_update=3)
    statuses = [learning.step(number).status for number in range(4)]
    assert statuses == [TtrlStatus.WAITING] * 2 + [TtrlStatus.PUBLISHED, TtrlStatus.WAITING]
    assert learning.learner.num_updates == 1


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


def test_recomputed_layers_give_the_same_update(bench, tmp_path):
    expected = bench(folder=tmp_path / "plain").step(0).update["fingerprint"]
    again = bench(folder=tmp_path / "again", recompute=True)
    assert again.step(0).update["fingerprint"] == expected
    assert again.agent.policy.recompute
    again.agent.policy.recompute = False


def test_a_tenant_has_its_budget_and_its_own_memory(bench):
    learning = bench(lessons_per_tenant=1)
    assert learning.step(0, tenant="one").status is TtrlStatus.PUBLISHED
    assert learning.step(1, tenant="one").status is TtrlStatus.OVER_BUDGET
    assert learning.step(2, tenant="two").status is TtrlStatus.PUBLISHED
    assert learning.memory.ids("one") == ["coins-0#0", "coins-1#1"]
    assert learning.memory.ids("two") == ["coins-2#2"]
    assert [tenant for _, tenant, _ in learning.run.calls] == ["one", "one", "two"]


def test_only_a_budget_counts_tenants(bench):
    """A server's tenants come and go by the thousand."""
    learning = bench()
    for number in range(2):
        learning.step(number, tenant=f"tenant {number}")
    assert load_state(learning.config)["tenant_lessons"] == {}


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


def test_a_tenants_learner_stands_beside_one_for_everybody(bench, tmp_path):
    """What is published for everybody is not the tenant's, whose own learning would be stale."""
    public = bench(folder=tmp_path / "public")
    own = bench(folder=tmp_path / "own", only_for="own", beside=True)
    public.step(0)
    assert public.agent.engine.version == f"{VERSION}+ttrl-1"
    assert own.learner.versions.serving == VERSION
    event = own.step(0, tenant="own")
    assert (event.status, event.version) == (TtrlStatus.PUBLISHED, f"{VERSION}+own/ttrl-1")
    assert public.agent.engine.version == f"{VERSION}+ttrl-1"


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
