"""The group that bench/training.py gives both trainers, and what it holds them to."""

import pytest
import torch

from bench.harness import Samples
from bench.training import OURS, TRL, checks_of
from bench.training_cases import STEPS, reward_of, training_case
from bench.training_clock import Clock
from bench.training_ours import TrainingRun
from bench.training_sft import IGNORED, make_chains, memory_of, open_trainer, padded
from pixelis_fast.agent import AgentConfig, open_policy
from pixelis_fast.checkpoint_folder import save_folder
from pixelis_fast.data.prepared import Prepared


def test_groups_have_text_only_calls_and_unequal_rewards():
    case = training_case("G8-T4")
    assert (case.size, case.num_steps) == (8, 4)
    assert all(call.operation != "zoom" for member in case.members for call in member.calls)
    assert len({str(member.calls) for member in case.members}) == 8
    assert len({reward_of(index) for index in range(8)}) == 3
    assert len(STEPS) == 4


@pytest.mark.parametrize("name", ["G1-T1", "G9-T1", "G2-T0", "G2-T5", "coins"])
def test_unknown_groups_are_refused(name):
    with pytest.raises(ValueError, match=r"--cases: expected G2\.\.G8"):
        training_case(name)


def run(loss: float, logprob: float) -> Samples:
    return Samples(ms=[1.0], results=[TrainingRun(loss, ({7: logprob, 8: -1.0},), {}, 9)])


def test_checks_see_another_loss_and_another_log_probability():
    same = checks_of("G2-T1", {OURS: run(0.5, -2.0), TRL: run(0.5005, -2.0005)})
    assert [check.passed for check in same] == [True, True]
    other = checks_of("G2-T1", {OURS: run(0.5, -2.0), TRL: run(0.51, -2.5)})
    assert [check.passed for check in other] == [False, False]
    assert checks_of("G2-T1", {OURS: run(0.5, -2.0)}) == []


def test_clock_adds_up_until_taken():
    clock = Clock()
    for _ in range(2):
        with clock("update"):
            pass
    assert clock.take()["update"] >= 0
    assert clock.take() == {}


@pytest.fixture(scope="module")
def supervised(tmp_path_factory):
    """A checkpoint folder and two chains."""
    place = tmp_path_factory.mktemp("sft")
    opened = open_policy(AgentConfig(policy="pixelworld-5m", random_weights=True))
    folder, policy = place / "policy", opened.policy
    save_folder(folder, policy, tokenizer=opened.tokenizer, limits=opened.limits)
    return folder, make_chains(place / "data", "pixelworld-5m", 3)


def test_a_supervised_step_changes_nothing_and_takes_memory(supervised):
    trainer = open_trainer("ours", *supervised)
    first, second = trainer.step(), trainer.step()
    assert first == second
    assert 0 < first.loss < 20
    memory = memory_of("ours", *supervised, threads=1)
    assert memory.peak > memory.before > 100


def test_transformers_batch_holds_the_same_tokens_and_pictures(supervised):
    folder, place = supervised
    opened = open_policy(AgentConfig(policy=str(folder)))
    data = Prepared([place], opened.limits.image.patch)
    batch = padded(data, image_pad=opened.tokenizer.special.image_pad)
    lengths = [len(example.trajectory.ids) for example in data.examples]
    assert batch["attention_mask"].sum(1).tolist() == lengths
    assert batch["input_ids"].shape == (len(lengths), max(lengths))
    spans = [span for example in data.examples for span in example.trajectory.spans]
    assert int(batch["mm_token_type_ids"].sum()) == sum(span.num_tokens for span in spans)
    assert len(batch["pixel_values"]) == int(batch["image_grid_thw"].prod(1).sum())
    wanted = batch["labels"] != IGNORED
    assert torch.equal(batch["labels"][wanted], batch["input_ids"][wanted])
    assert wanted.any(1).all()
    assert not wanted[batch["attention_mask"] == 0].any()


def test_a_broken_arm_says_so(tmp_path):
    with pytest.raises(RuntimeError, match="memory of ours: "):
        memory_of("ours", tmp_path / "none", tmp_path, threads=1)
