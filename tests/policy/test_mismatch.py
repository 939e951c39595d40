"""Rollout log-probabilities are the training forward's; stale weights raise the alarm."""

from copy import deepcopy

import pytest
import torch

from pixelis_fast.policy.engine import Chunk, Engine, EngineConfig
from pixelis_fast.policy.mismatch import (
    MismatchAlarm,
    MismatchError,
    measure,
    trainer_logprobs,
)
from pixelis_fast.policy.model import Policy
from pixelis_fast.policy.sampling import Sampling, sample
from pixelis_fast.policy.weights import random_policy
from pixelis_fast.spans import Spans
from tests.policy.engine_media import extend, load_picture, opening
from tests.tiny_policy import tiny_policy as make_policy

TEMPERATURE = 0.8
BANNED = (1, 2, 3)
INVARIANT = EngineConfig(share_prefix=False, batch_invariant=True)


@pytest.fixture
def policy() -> Policy:
    return make_policy(seed=61)


def allowed_at(step: int, policy: Policy) -> torch.Tensor | None:
    """A grammar that speaks at every other token."""
    if step % 2:
        return None
    return torch.arange(policy.config.text.vocab_size) % 3 != step % 3


class Rollout:
    """A group that samples; each member's history, chosen places and log-probabilities."""

    def __init__(self, engine: Engine, *, size: int = 3) -> None:
        self.engine, self.policy = engine, engine.policy
        first = engine.open()
        prompt = opening(self.policy) + Chunk(list(range(100, 180)), opens_turn=True)
        logits_V = extend(engine, first, prompt)
        self.sessions = [first, *(engine.fork(first) for _ in range(size - 1))]
        self.logits = [logits_V] * size
        self.histories = [prompt] * size
        self.places: list[list[int]] = [[] for _ in range(size)]
        self.logprobs: list[list[float]] = [[] for _ in range(size)]
        self.draw = [torch.Generator().manual_seed(member) for member in range(size)]

    def turn(self, num_tokens: int, observation: Chunk) -> None:
        for _ in range(num_tokens):
            self.append([self.choose(member) for member in range(len(self.sessions))])
        self.append([observation] * len(self.sessions))

    def choose(self, member: int) -> Chunk:
        token, logprob = sample(
            self.logits[member],
            sampling=Sampling(temperature=TEMPERATURE),
            generator=self.draw[member],
            allowed=allowed_at(len(self.places[member]), self.policy),
            banned_ids=BANNED,
        )
        self.places[member].append(len(self.histories[member].ids))
        self.logprobs[member].append(logprob)
        return Chunk([token])

    def append(self, chunks: list[Chunk]) -> None:
        logits_BV = self.engine.extend(self.sessions, chunks, spans=Spans())
        self.logits = list(logits_BV)
        self.histories = [h + chunk for h, chunk in zip(self.histories, chunks, strict=True)]

    def both_sides(self, member: int, policy: Policy) -> tuple[torch.Tensor, torch.Tensor]:
        places = self.places[member]
        trainer_M = trainer_logprobs(
            policy,
            Engine(policy, load_picture).training_batch(self.histories[member]),
            places,
            temperature=TEMPERATURE,
            allowed=[allowed_at(step, policy) for step in range(len(places))],
            banned_ids=BANNED,
            invariant=self.engine.config.batch_invariant,
        )
        return torch.tensor(self.logprobs[member]), trainer_M


def run(engine: Engine) -> Rollout:
    rollout = Rollout(engine)
    rollout.turn(8, opening(engine.policy, "2"))
    rollout.turn(8, Chunk([7, 8, 9], opens_turn=True))
    return rollout


@pytest.mark.parametrize(
    "config",
    [EngineConfig(), EngineConfig(prefill_chunk=16), EngineConfig(packed_weights=False)],
    ids=["defaults", "pieces", "plain"],
)
@pytest.mark.parametrize("weights", ["as trained models start", "wide"])
def test_rollout_logprobs_are_the_trainers(policy, config, weights):
    """Within 1e-6; wide weights make errors grow, there it is 2e-6 of the log-probability."""
    is_wide = weights == "wide"
    policy = policy if is_wide else random_policy("unit", seed=1)
    rollout = run(Engine(policy, load_picture, config=config))
    for member in range(3):
        recorded_M, trainer_M = rollout.both_sides(member, policy)
        MismatchAlarm.for_dtype(torch.float32).check(recorded_M, trainer_M)
        apart_M = (recorded_M - trainer_M.detach()).abs()
        scale_M = recorded_M.abs().clamp_min(1) if is_wide else torch.ones_like(recorded_M)
        assert len(apart_M) == 16
        assert (apart_M <= (2e-6 if is_wide else 1e-6) * scale_M).all()


def test_batch_invariant_logprobs_are_the_trainers_bit_for_bit(policy):
    rollout = run(Engine(policy, load_picture, config=INVARIANT))
    for member in range(3):
        recorded_M, trainer_M = rollout.both_sides(member, policy)
        assert trainer_M.requires_grad
        assert torch.equal(recorded_M, trainer_M.detach())


def test_a_publish_that_the_rollout_did_not_see_raises_the_alarm(policy):
    rollout_policy = deepcopy(policy)
    engine = Engine(rollout_policy, load_picture, version="v1")
    run(engine)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.01)
    alarm = MismatchAlarm.for_dtype(torch.float32)
    with pytest.raises(MismatchError, match="are the weights stale"):
        alarm.check(*run(engine).both_sides(0, policy))
    rollout_policy.load_state_dict(policy.state_dict())
    engine.publish("v2")
    alarm.check(*run(engine).both_sides(0, policy))


@pytest.mark.parametrize("config", [EngineConfig(), EngineConfig(packed_weights=False)])
def test_weights_changed_behind_torchs_back_need_a_publish(policy, config):
    """`.data` leaves no trace: old prefixes and packed matrices would go on being used."""
    engine = Engine(policy, load_picture, version="v1", config=config)
    run(engine)
    for parameter in policy.parameters():
        parameter.data.mul_(1.01)
    alarm = MismatchAlarm.for_dtype(torch.float32)
    with pytest.raises(MismatchError):
        alarm.check(*run(engine).both_sides(0, policy))
    engine.publish("v2")
    alarm.check(*run(engine).both_sides(0, policy))


def test_a_session_that_outlives_a_publish_raises_the_alarm(policy):
    engine = Engine(policy, load_picture, version="v1")
    rollout = Rollout(engine)
    rollout.turn(4, Chunk([7], opens_turn=True))
    with torch.no_grad():
        policy.layers[0].gate_up.weight.mul_(1.05)
    engine.publish("v2")
    rollout.turn(4, Chunk([8], opens_turn=True))
    with pytest.raises(MismatchError):
        MismatchAlarm.for_dtype(torch.float32).check(*rollout.both_sides(0, policy))


def test_what_cannot_be_compared_is_refused():
    one, two = torch.zeros(1), torch.zeros(2)
    for pair in ((one, two), (torch.zeros(0), torch.zeros(0)), (torch.zeros(2, 2),) * 2):
        with pytest.raises(ValueError, match="expected two rows of one length"):
            measure(*pair)
    with pytest.raises(ValueError, match="dtype: expected one of"):
        MismatchAlarm.for_dtype(torch.float64)
    with pytest.raises(MismatchError):
        MismatchAlarm(1.0, 1.0).check(one, torch.full((1,), float("nan")))
