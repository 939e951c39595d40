"""Advantages within groups, and which tokens carry them."""

import pytest

from pixelis_fast.advantages import (
    AdvantageConfig,
    group_advantages,
    learned_tokens,
    token_advantages,
)
from pixelis_fast.types import RolloutStatus, Sample, TokenRole, Trajectory

ANSWERED, OVERLONG = RolloutStatus.ANSWERED, RolloutStatus.TRUNCATED_MAX_TOKENS


def ended(*statuses: RolloutStatus) -> list[Trajectory]:
    return [Trajectory(Sample("s", (), "q"), "v", 0, status=status) for status in statuses]


def test_advantages_are_centred_and_scaled_within_each_group():
    found = group_advantages([1, 3, 10, 30], [0, 0, 1, 1], ended(*[ANSWERED] * 4))
    assert found.values == pytest.approx((-1, 1, -1, 1))
    assert found.used == (0, 1, 2, 3)
    plain = AdvantageConfig(divide_by_std=False)
    found = group_advantages([1, 3, 10, 30], [0, 0, 1, 1], ended(*[ANSWERED] * 4), plain)
    assert found.values == pytest.approx((-1, 1, -10, 10))


def test_a_constant_added_to_a_group_changes_nothing():
    one = group_advantages([0, 1, 0, 0], [0] * 4, ended(*[ANSWERED] * 4))
    other = group_advantages([5, 6, 5, 5], [0] * 4, ended(*[ANSWERED] * 4))
    assert one.values == pytest.approx(other.values)


def test_unanimous_groups_are_dropped():
    found = group_advantages([1, 1, 0, 1], [0, 0, 1, 1], ended(*[ANSWERED] * 4))
    assert found.used == (2, 3)
    assert found.values[:2] == (0.0, 0.0)
    assert (found.dropped_groups, found.num_groups) == (1, 2)


def test_a_group_that_differs_by_little_counts_little():
    """All answers right, one a little smoother: what shapes must not weigh as an answer does."""
    config = AdvantageConfig(least_spread=0.25)
    shaped = group_advantages([1.02, 1, 1, 1], [0] * 4, ended(*[ANSWERED] * 4), config)
    assert shaped.values == pytest.approx((0.06, -0.02, -0.02, -0.02))
    answered = group_advantages([1, 0, 0, 0], [0] * 4, ended(*[ANSWERED] * 4), config)
    plain = group_advantages([1, 0, 0, 0], [0] * 4, ended(*[ANSWERED] * 4))
    assert answered.values == plain.values
    assert group_advantages([1] * 4, [0] * 4, ended(*[ANSWERED] * 4), config).dropped_groups == 1


def test_ends_that_say_nothing_of_the_policy_are_no_members():
    statuses = [ANSWERED, ANSWERED, RolloutStatus.TRUNCATED_MAX_TIME, RolloutStatus.FAILED]
    found = group_advantages([1, 3, 99, -99], [0] * 4, ended(*statuses))
    assert found.values == pytest.approx((-1, 1, 0, 0))
    assert found.used == (0, 1)


def test_overlong_trajectories_can_be_masked():
    trajectories = ended(ANSWERED, OVERLONG, ANSWERED)
    kept = group_advantages([1, 0, 1], [0] * 3, trajectories)
    masked = group_advantages([1, 0, 1], [0] * 3, trajectories, AdvantageConfig(overlong="mask"))
    assert kept.used == (0, 1, 2)
    assert masked.used == (0, 2)
    # It still lowers the baseline of the others.
    assert masked.values[0] == kept.values[0] > 0
    assert masked.values[1] == 0.0


@pytest.mark.parametrize("rewards", [[1.0, float("nan")], [1.0, float("inf")]])
def test_a_reward_that_is_no_number_is_an_error(rewards):
    with pytest.raises(ValueError, match="rewards: expected finite"):
        group_advantages(rewards, [0, 0], ended(ANSWERED, ANSWERED))


def test_lengths_must_fit():
    with pytest.raises(ValueError, match="groups: expected one"):
        group_advantages([1.0], [0, 0], ended(ANSWERED, ANSWERED))
    with pytest.raises(ValueError, match="overlong: expected"):
        AdvantageConfig(overlong="drop")
    with pytest.raises(ValueError, match="least_spread: expected"):
        AdvantageConfig(least_spread=-0.1)


def test_only_what_the_policy_chose_is_learned():
    roles = [
        TokenRole.PROMPT, TokenRole.THOUGHT, TokenRole.OPERATION, TokenRole.OPERATION,
        TokenRole.ARGUMENT, TokenRole.OBSERVATION, TokenRole.ANSWER,
    ]  # fmt: skip
    forced = [False, False, False, True, False, False, False]
    trajectory = Trajectory(
        Sample("s", (), "q"), "v", 0, ids=[0] * 7, roles=roles, logprobs=[0.0] * 7, forced=forced
    )
    assert learned_tokens(trajectory) == [False, True, True, False, True, False, True]
    assert token_advantages(trajectory, -2.0) == [0.0, -2.0, -2.0, 0.0, -2.0, 0.0, -2.0]
