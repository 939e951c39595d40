"""The group that bench/training.py gives both trainers, and what it holds them to."""

import pytest

from bench.harness import Samples
from bench.training import OURS, TRL, checks_of
from bench.training_cases import STEPS, reward_of, training_case
from bench.training_clock import Clock
from bench.training_ours import TrainingRun


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
