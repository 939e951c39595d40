"""Curiosity pays for what can be learned: progress on a rule, nothing for noise."""

import pytest
import torch

from pixelis_fast.dynamics import (
    NUM_FEATURES,
    OPERATIONS,
    Dynamics,
    DynamicsConfig,
    Transition,
    action_features,
)
from pixelis_fast.types import ToolCall
from tests.reward_chains import READ, SIZE, STILL, TRACK, VIDEO, ZOOM

GENERATOR = torch.Generator()
ROTATION = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(5))).Q
FAST = DynamicsConfig(width=64, learning_rate=3e-3, snapshot_every=4)


@pytest.fixture(autouse=True)
def _seeded_noise():
    GENERATOR.manual_seed(0)


def rows(count: int) -> torch.Tensor:
    return torch.randn(count, SIZE, generator=GENERATOR)


def transitions(call: ToolCall, before: torch.Tensor, after: torch.Tensor) -> list[Transition]:
    pairs = zip(before.tolist(), after.tolist(), strict=True)
    return [Transition(call, (STILL,), tuple(b), tuple(a)) for b, a in pairs]


def noisy(count: int = 32, scale: float = 1.0) -> list[Transition]:
    """A television: what comes next has nothing to do with what was."""
    return transitions(READ, rows(count), rows(count) * scale)


def lawful(count: int = 32) -> list[Transition]:
    before = rows(count)
    return transitions(ZOOM, before, before @ ROTATION)


def earned(dynamics: Dynamics, make, *, batches: int) -> list[float]:
    """Mean reward of each batch, before the head learns from it."""
    means = []
    for _ in range(batches):
        batch = make()
        means.append(sum(dynamics.rewards(batch)) / len(batch))
        dynamics.learn(batch)
    return means


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_noise_is_no_endless_reward():
    progress = earned(Dynamics(SIZE, FAST), noisy, batches=120)
    raw = earned(Dynamics(SIZE, DynamicsConfig(reward="error", clip=5.0)), noisy, batches=120)
    assert abs(mean(progress[-40:])) < 0.02
    assert mean(raw[-40:]) > 0.8


def test_a_rule_pays_while_it_is_learned():
    progress = earned(Dynamics(SIZE, FAST), lawful, batches=140)
    assert progress[0] == 0.0
    assert mean(progress[8:40]) > 0.1
    assert mean(progress[8:40]) > 5 * abs(mean(progress[-40:]))


def test_beside_each_other_the_rule_pays_more_than_the_noise():
    dynamics = Dynamics(SIZE, FAST)
    paid: dict[str, list[float]] = {"zoom": [], "read_text": []}
    for _ in range(60):
        batch = lawful(16) + noisy(16)
        for transition, reward in zip(batch, dynamics.rewards(batch), strict=True):
            paid[transition.call.operation].append(reward)
        dynamics.learn(batch)
    assert mean(paid["zoom"]) > 3 * max(0.01, mean(paid["read_text"]))


def test_errors_count_in_units_of_their_operation():
    dynamics = Dynamics(SIZE, DynamicsConfig(reward="error", clip=100.0))
    for _ in range(60):
        dynamics.learn(noisy(scale=10.0) + transitions(ZOOM, rows(32), rows(32)))
    loud = mean(dynamics.rewards(noisy(scale=10.0)))
    quiet = mean(dynamics.rewards(transitions(ZOOM, rows(32), rows(32))))
    assert loud == pytest.approx(quiet, rel=0.3)


def test_rewards_are_clipped_and_change_nothing():
    dynamics = Dynamics(SIZE, DynamicsConfig(reward="error", clip=0.25))
    dynamics.learn(noisy())
    batch = noisy(scale=9.0)
    first = dynamics.rewards(batch)
    assert max(first) == 0.25
    assert dynamics.rewards(batch) == first
    assert dynamics.rewards([]) == []


def test_state_goes_on_with_the_same_bits():
    one, other = Dynamics(SIZE, FAST, seed=1), Dynamics(SIZE, FAST, seed=2)
    for _ in range(5):
        one.learn(lawful())
    other.load_state_dict(one.state_dict())
    batches = [lawful() + noisy() for _ in range(6)]
    for batch in batches:
        assert one.rewards(batch) == other.rewards(batch)
        one.learn(batch)
        other.learn(batch)
    for name, tensor in one.head.state_dict().items():
        assert torch.equal(tensor, other.head.state_dict()[name]), name


def test_action_features():
    for call, media in ((ZOOM, STILL), (READ, STILL), (TRACK, VIDEO)):
        features = action_features(call, (media,))
        assert len(features) == NUM_FEATURES
        assert all(0 <= value <= 1 for value in features)
        assert features[: len(OPERATIONS)].index(1.0) == OPERATIONS.index(call.operation)
    half = ToolCall("track", {**TRACK.arguments, "end": 2.0})
    assert action_features(half, (VIDEO,)) != action_features(TRACK, (VIDEO,))


@pytest.mark.parametrize("wrong", [{"reward": "surprise"}, {"updates": 0}, {"mean_decay": 1.0}])
def test_config_errors(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DynamicsConfig(**wrong)
