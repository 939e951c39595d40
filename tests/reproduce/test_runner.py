"""Arms are made once, measured by real rollouts, and found again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, replace

import pytest

from pixelis_fast.agent import AgentConfig, build_agent
from pixelis_fast.corridor import CorridorConfig
from pixelis_fast.data.pixelworld import PixelWorld, PixelWorldConfig
from pixelis_fast.data.shift import ShiftConfig
from pixelis_fast.eval.arms import Answerer
from pixelis_fast.phases.sft_loss import LossConfig
from pixelis_fast.phases.ttrl_journal import events_of
from pixelis_fast.phases.ttrl_learner import TtrlLearner
from pixelis_fast.phases.ttrl_types import TtrlEvent, TtrlStatus
from pixelis_fast.reproduce import runner
from pixelis_fast.reproduce.budget import BUDGETS
from pixelis_fast.reproduce.held import held
from pixelis_fast.reproduce.measure import LIMITS, measure, questions_of_test
from pixelis_fast.reproduce.recipes import (
    UNIFORM,
    chains_config,
    direct_config,
    grounding_config,
    rft_config,
    tower_config,
    ttrl_config,
)
from pixelis_fast.reproduce.rows import ROW, ROW_LOCK, RowFolder, once
from pixelis_fast.reproduce.runner import ArmTask, Reproduction
from pixelis_fast.reproduce.stream import learned, stream
from pixelis_fast.reproduce.table import save
from pixelis_fast.types import AnswerKind, Sample
from pixelis_fast.voting import VoteKind

SHORT = replace(LIMITS, max_steps=1, max_tokens=60)


@pytest.fixture(scope="module")
def agent():
    config = AgentConfig(policy="pixelworld-5m", random_weights=True, rollout=SHORT)
    return build_agent(config)


def test_a_policy_is_measured_with_and_without_tools(agent, tmp_path):
    questions = questions_of_test(3)
    found = measure(agent, questions, tmp_path / "with")
    assert found.count == 3
    assert found.accuracy == 0.0  # random weights say nothing right
    assert set(found.by_family) <= {family_of_id(q.index) for q in questions}
    bare = measure(agent, questions, tmp_path / "without", tools=False)
    assert bare.length == 0
    assert not list((tmp_path / "with/media").iterdir()), "media go once they are stored"


def test_a_measurement_goes_on_where_it_was_cut(agent, tmp_path, monkeypatch):
    monkeypatch.setattr("pixelis_fast.reproduce.measure.BATCH", 2)
    asked, run = [], Answerer.run

    def counted(self, samples, *, numbers, seed):
        asked.append(list(numbers))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return run(self, samples, numbers=numbers, seed=seed)

    monkeypatch.setattr(Answerer, "run", counted)
    with pytest.raises(KeyboardInterrupt):
        measure(agent, questions_of_test(3), tmp_path)
    found = measure(agent, questions_of_test(3), tmp_path)
    assert asked == [[0, 1], [2], [2]]
    assert found.count == 3


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


def event(
    status: TtrlStatus, answer: str | None, kl: float | None = None, others: tuple = ("kx", None)
) -> TtrlEvent:
    update = {} if kl is None else {"drift": {"exact": kl}}
    answers = (answer, *others)
    return TtrlEvent(0, "s", "t", status, "", answer, 0.9, 8, "v", update, answers)


def test_what_was_learned_leaves_the_adversarial_out():
    sample = Sample("read-1", (), "?", "KX", AnswerKind.EXACT)
    events = [
        event(TtrlStatus.PUBLISHED, "kx", 0.15),
        event(TtrlStatus.ABSTAINED, "no", others=("no", "no")),
        event(TtrlStatus.PUBLISHED, "no", 0.25),
        event(TtrlStatus.DROPPED, "no", 0.5),
        event(TtrlStatus.PUBLISHED, "no", 0.01),
    ]
    other = replace(sample, id="read-4-adversarial")
    samples = [sample, sample, sample, other, other]
    found = learned(events, samples, corridor=CorridorConfig(low=0.10, high=0.20))
    assert found.vote_accuracy == 0.5
    assert found.one_accuracy == pytest.approx((2 / 3 + 0 + 1 / 3) / 3)
    assert found.one_where_voted == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert found.abstained == pytest.approx(1 / 3)
    assert (found.updates, found.published) == (4, 3)
    assert found.in_corridor == pytest.approx(1 / 3), "too small an update is not in the corridor"
    assert found.below_top == pytest.approx(2 / 3)
    assert found.kl_median == pytest.approx(0.15)


def test_a_stream_that_abstained_throughout_has_no_error_of_its_votes():
    sample = Sample("read-1", (), "?", "KX", AnswerKind.EXACT)
    found = learned([event(TtrlStatus.ABSTAINED, "no")], [sample], corridor=CorridorConfig())
    assert found.vote_accuracy is None
    assert found.abstained == 1
    assert found.below_top is None


def test_a_whole_stream_is_kept_and_a_cut_one_goes_on(agent, tmp_path, monkeypatch):
    budget = BUDGETS["quick"]
    run, asked, steps = Reproduction(tmp_path, budget), [], []

    def counted(*given, **named):
        for number, sample in enumerate(stream(*given, **named)):
            asked.append(number)
            if len(asked) == 2:
                raise KeyboardInterrupt
            yield sample

    def stepping(learner, sample, **named):
        steps.append(sample.id)
        return step(learner, sample, **named)

    step = TtrlLearner.step
    monkeypatch.setattr(runner, "stream", counted)
    monkeypatch.setattr(TtrlLearner, "step", stepping)
    config = ttrl_config(tmp_path / "arm/run", budget, seed=0)
    with agent.loop:
        with pytest.raises(KeyboardInterrupt):
            run._learned(agent, config, tmp_path / "arm", None)
        (tmp_path / "arm/answers.jsonl").write_text("of the cut stream's policy")
        found = run._learned(agent, config, tmp_path / "arm", None)
        assert asked == [0, 1, 0, 1], "a row is of all its samples"
        assert len(steps) == len(set(steps)) == 2, "and nothing is learned twice"
        assert [event.sample_id for event in events_of(tmp_path / "arm/run")] == steps
        assert not (tmp_path / "arm/answers.jsonl").exists()
        assert run._learned(agent, config, tmp_path / "arm", None) == found
        assert len(asked) == 4, "what came to its end is not learned again"


def test_a_row_is_made_once(tmp_path):
    made = []
    rows = RowFolder(tmp_path, BUDGETS["quick"])
    make = lambda: made.append(1) or {"accuracy": 0.5}  # noqa: E731
    first, second = rows.row("an, arm", 0, make), rows.row("an, arm", 0, make)
    assert first == second == {"arm": "an, arm", "seed": 0, "threads": 1, "accuracy": 0.5}
    assert len(made) == 1
    assert json.loads((tmp_path / "seed-0" / "an-arm" / ROW).read_text()) == first


def test_a_folder_is_of_one_budget_but_seeds_may_be_added(tmp_path):
    one = replace(BUDGETS["quick"], seeds=(0,))
    RowFolder(tmp_path, one).claim()
    RowFolder(tmp_path, replace(one, seeds=(0, 1, 2), threads=2)).claim()
    with pytest.raises(ValueError, match=r"budget\.json: expected the budget"):
        RowFolder(tmp_path, BUDGETS["cpu"]).claim()


def recorded(path, budget, *rows):
    path.write_text(json.dumps({"budget": asdict(budget), "rows": rows}))
    return path


def test_rows_made_elsewhere_are_taken_over_where_there_are_none(tmp_path):
    one = replace(BUDGETS["quick"], seeds=(0,))
    folder = RowFolder(tmp_path / "here", replace(one, seeds=(0, 1), threads=2))
    ours = folder.row("sft", 0, lambda: {"accuracy": 0.5})
    theirs = [{"arm": "sft", "seed": seed, "accuracy": 0.25} for seed in (0, 1)]
    record = recorded(tmp_path / "rows.json", one, *theirs)
    assert [folder.adopt(record), folder.adopt(record)] == [1, 0]
    assert folder.found(["sft"], (0, 1)) == [ours, theirs[1]]
    assert folder.row("sft", 1, pytest.fail) == theirs[1]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"rows": []}', '{"budget": {}, "rows": [{"seed": 0}]}']
)
def test_what_is_no_record_is_refused_by_name(tmp_path, text):
    (tmp_path / "odd.json").write_text(text)
    with pytest.raises(ValueError, match=r'odd\.json: expected an object with a "budget"'):
        RowFolder(tmp_path / "here", BUDGETS["quick"]).adopt(tmp_path / "odd.json")


def test_rows_of_another_budget_are_refused_and_told_apart(tmp_path):
    other = replace(BUDGETS["quick"], rft_steps=7)
    record = recorded(tmp_path / "rows.json", other, {"arm": "sft", "seed": 0})
    with pytest.raises(ValueError, match=r"rows\.json: expected the budget .*'rft_steps': 7"):
        RowFolder(tmp_path / "here", BUDGETS["quick"]).adopt(record)


UNKNOWN = dict.fromkeys(("visfid", "validity", "rapr", "racpr"))


class TwoArms(Reproduction):
    """Arms that cost nothing."""

    def tasks(self, seed):
        for name in ("sft", "cc-rft"):
            yield ArmTask(name, lambda: {"accuracy": 0.5, "length": 2, "latency_s": 1} | UNKNOWN)


def test_one_seed_does_not_shrink_the_record_of_three(tmp_path):
    three = TwoArms(tmp_path, replace(BUDGETS["quick"], seeds=(0, 1, 2)))
    three.run()
    one = TwoArms(tmp_path, BUDGETS["quick"])
    assert len(one.run()) == 2
    save(one.collect_all, one.budget, tmp_path)
    kept = json.loads((tmp_path / "rows.json").read_text())
    assert len(kept["rows"]) == 6
    assert kept["budget"]["seeds"] == [0, 1, 2]


def test_what_is_there_is_collected_and_nothing_is_made(tmp_path):
    budget = replace(BUDGETS["quick"], seeds=(0, 1))
    run = TwoArms(tmp_path / "run", budget)
    with pytest.raises(ValueError, match=r"expected a reproduction's budget\.json, found"):
        run.collect()
    assert not (tmp_path / "run").exists()
    seen = []
    run.run(arms=["cc-rft"], on_row=lambda row: seen.append(row["seed"]))
    assert seen == [0, 1]
    assert [(row["arm"], row["seed"]) for row in run.collect()] == [("cc-rft", 0), ("cc-rft", 1)]
    with pytest.raises(ValueError, match="expected at least one measured arm, found none"):
        run.collect(arms=["sft"])


def test_a_row_that_another_process_makes_is_left_to_it_and_waited_for(tmp_path):
    """The first arm is held, as by another process, until the second one is made."""
    run = TwoArms(tmp_path, BUDGETS["quick"])
    lock, seen = ExitStack(), []
    lock.enter_context(held(run.rows.folder(0, "sft") / ROW_LOCK, wait=True))

    def on_row(row):
        seen.append((row["arm"], [each["arm"] for each in run.collect()]))
        lock.close()

    found = run.run(on_row=on_row)
    assert seen == [("cc-rft", ["cc-rft"]), ("sft", ["sft", "cc-rft"])]
    assert [row["arm"] for row in found] == ["sft", "cc-rft"], "in the table's order"


def test_a_lock_is_free_again_once_its_holder_is_killed(tmp_path):
    holding = (
        "import sys, time; from pathlib import Path; from pixelis_fast.reproduce.held import held\n"
        "with held(Path(sys.argv[1]), wait=True): print('held', flush=True); time.sleep(600)"
    )
    path = tmp_path / "lock"
    command = [sys.executable, "-c", holding, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with held(path, wait=False) as ours:
            assert not ours
        process.kill()
        process.wait()
        with held(path, wait=False) as ours:
            assert ours


def test_what_another_process_made_meanwhile_is_not_made_again(tmp_path):
    """Two ask at once for what takes a while: one makes it."""
    made = []

    def make():
        made.append(1)
        time.sleep(0.2)
        return tmp_path / "policy"

    with ThreadPoolExecutor(2) as pool:
        assert {*pool.map(lambda _: once(tmp_path, make), range(2))} == {tmp_path / "policy"}
    assert len(made) == 1


def test_the_gpus_budget_trains_and_measures_on_a_gpu(tmp_path):
    budget = BUDGETS["gpu"]
    loss = LossConfig()
    configs = [
        tower_config(tmp_path, tmp_path, budget, seed=0),
        grounding_config(tmp_path, "p", tmp_path, budget, seed=0, loss=loss),
        chains_config(tmp_path, tmp_path, tmp_path, budget, seed=0, loss=loss),
        direct_config(tmp_path, tmp_path, tmp_path, budget, seed=0),
        rft_config(tmp_path, tmp_path, budget, seed=0, arm="cc-rft").agent,
    ]
    assert [config.device for config in configs] == ["cuda"] * 5


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
