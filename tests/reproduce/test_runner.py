"""Arms are made once, measured by real rollouts, and found again."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pixelis_fast.agent import AgentConfig, build_agent
from pixelis_fast.data.pixelworld import PixelWorld, PixelWorldConfig
from pixelis_fast.data.shift import ShiftConfig
from pixelis_fast.phases.ttrl_types import TtrlEvent, TtrlStatus
from pixelis_fast.reproduce.budget import BUDGETS
from pixelis_fast.reproduce.measure import LIMITS, measure, questions_of_test
from pixelis_fast.reproduce.recipes import UNIFORM, chains_config, rft_config, ttrl_config
from pixelis_fast.reproduce.runner import ROW, ArmTask, Reproduction, once
from pixelis_fast.reproduce.stream import learned, stream
from pixelis_fast.types import AnswerKind, Sample
from pixelis_fast.voting import VoteKind

SHORT = replace(LIMITS, max_steps=1, max_tokens=60)


@pytest.fixture(scope="module")
def agent():
    config = AgentConfig(policy="pixelworld-5m", random_weights=True, rollout=SHORT)
    return build_agent(config)


def test_a_policy_is_measured_with_and_without_tools(agent, tmp_path):
    questions = questions_of_test(3)
    found = measure(agent, questions, tmp_path)
    assert found.count == 3
    assert found.accuracy == 0.0  # random weights say nothing right
    assert set(found.by_family) <= {family_of_id(q.index) for q in questions}
    bare = measure(agent, questions, tmp_path, tools=False)
    assert bare.length == 0
    assert not list(tmp_path.iterdir()), "media are removed once they are stored"


def family_of_id(index: int) -> str:
    return PixelWorld(PixelWorldConfig(seed=0)).task("test", index).family


def test_the_stream_has_an_adversarial_segment_and_forgets_its_pictures(agent, tmp_path):
    shift = ShiftConfig("noise", 3)
    samples = []
    for sample in stream(agent, tmp_path, 10, shift=shift, adversarial=True):
        assert sample.media[0].id in agent.tools.store
        samples.append(sample)
    marked = [i for i, sample in enumerate(samples) if sample.id.endswith("adversarial")]
    assert marked == [6]
    assert samples[6].question == samples[5].question
    assert samples[0].media[0].id not in agent.tools.store


def event(status: TtrlStatus, answer: str | None, kl: float | None = None) -> TtrlEvent:
    update = {} if kl is None else {"drift": {"exact": kl}}
    return TtrlEvent(0, "s", "t", status, "", answer, 0.9, 8, "v", update)


def test_what_was_learned_leaves_the_adversarial_out():
    sample = Sample("read-1", (), "?", "KX", AnswerKind.EXACT)
    events = [
        event(TtrlStatus.PUBLISHED, "kx", 0.15),
        event(TtrlStatus.ABSTAINED, "no"),
        event(TtrlStatus.PUBLISHED, "no", 0.25),
        event(TtrlStatus.DROPPED, "no", 0.5),
    ]
    samples = [sample, sample, sample, replace(sample, id="read-4-adversarial")]
    found = learned(events, samples, corridor_high=0.20)
    assert found.vote_accuracy == 0.5
    assert found.abstained == pytest.approx(1 / 3)
    assert (found.updates, found.published) == (3, 2)
    assert found.in_corridor == 0.5
    assert found.kl_median == pytest.approx(0.20)


def test_a_row_is_made_once(tmp_path):
    made = []
    run = Reproduction(tmp_path, BUDGETS["quick"])
    task = ArmTask("an, arm", lambda: made.append(1) or {"accuracy": 0.5})
    first, second = run._row(task, 0), run._row(task, 0)
    assert first == second == {"arm": "an, arm", "seed": 0, "accuracy": 0.5}
    assert len(made) == 1
    assert json.loads((tmp_path / "seed-0" / "an-arm" / ROW).read_text()) == first
    with pytest.raises(ValueError, match=r"budget\.json: expected the budget"):
        Reproduction(tmp_path, BUDGETS["cpu"])


def test_what_did_not_end_is_made_again(tmp_path):
    made = []

    def make():
        made.append(1)
        if len(made) == 1:
            raise RuntimeError("killed")
        return tmp_path / "policy"

    with pytest.raises(RuntimeError):
        once(tmp_path, make)
    assert once(tmp_path, make) == once(tmp_path, make) == tmp_path / "policy"
    assert len(made) == 2


def test_arms_differ_in_what_they_are_about_and_seeds_see_other_tasks(tmp_path):
    budget = BUDGETS["quick"]
    configs = {
        arm: rft_config(tmp_path, tmp_path / arm, budget, seed=0, arm=arm)
        for arm in ("cc-rft", "cc-rft without coherence", "task reward only")
    }
    assert configs["cc-rft without coherence"].rewards.coherence == 0
    assert configs["cc-rft without coherence"].rewards.curiosity > 0
    assert configs["task reward only"].rewards.curiosity == 0
    assert ttrl_config(tmp_path, budget, seed=0, without="vote").voting.kind is VoteKind.MAJORITY
    assert not ttrl_config(tmp_path, budget, seed=0, without="safety").safety
    chains = chains_config(tmp_path, tmp_path, tmp_path, budget, seed=0, loss=UNIFORM)
    assert chains.loss.aux_weight == 0
