"""A replay ends where its recording ends, however long either takes."""

import time
from copy import deepcopy
from dataclasses import replace

import pytest

from pixelis_fast.agent import Agent, AgentConfig, build_agent
from pixelis_fast.data.pixelworld import PixelWorld, PixelWorldConfig, save_media
from pixelis_fast.options import agent_config
from pixelis_fast.policy.sampling import Sampling
from pixelis_fast.replay import replay
from pixelis_fast.rollout import Rollout, RolloutConfig
from pixelis_fast.trace import differences
from pixelis_fast.types import RolloutStatus, Sample, TokenRole, Trajectory

SAMPLED = RolloutConfig(
    max_steps=2, max_tokens=120, max_thought_tokens=20, sampling=Sampling(temperature=0.5, seed=5)
)
HASTY_S = 1.0
COMPARE, LOCALIZE = 5, 0
"""Numbers of such tasks."""


@pytest.fixture(scope="module")
def agent() -> Agent:
    return build_agent(AgentConfig(policy="pixelworld-5m", rollout=SAMPLED))


@pytest.fixture(scope="module")
def samples(agent, tmp_path_factory) -> list[Sample]:
    """Asked once: what an engine keeps of a prompt changes the last bits of the first answer."""
    folder, world = tmp_path_factory.mktemp("world"), PixelWorld(PixelWorldConfig())
    tasks = [world.task("test", number) for number in (COMPARE, LOCALIZE)]
    media = [agent.tools.add_media(save_media(task, folder)) for task in tasks]
    names = ("picture", "video")
    asked = [
        Sample(name, (each,), task.question)
        for name, each, task in zip(names, media, tasks, strict=True)
    ]
    agent.rollout.run(asked)
    return asked


@pytest.fixture(scope="module")
def recorded(agent, samples) -> list[Trajectory]:
    """Each from a batch of its own, so that it can be cut without changing another's forwards."""
    trajectories = [agent.rollout.run([sample])[0] for sample in samples]
    assert all(ran_a_tool(trajectory) for trajectory in trajectories)
    return trajectories


def ran_a_tool(trajectory: Trajectory) -> bool:
    observations = [step.observation for step in trajectory.steps if step.call is not None]
    return any(each is not None and each.error is None for each in observations)


class Dawdles:
    """Draws like the policy, and lets time pass before one draw."""

    def __init__(self, chooser, *, before: int) -> None:
        self._chooser, self._left = chooser, before

    def choose(self, logits_V, allowed_V):
        drawn = self._chooser.choose(logits_V, allowed_V)
        if self._left == 0:
            time.sleep(HASTY_S + 0.2)
        self._left -= 1
        return drawn

    def follow(self, forced) -> None:
        self._chooser.follow(forced)

    def observe(self, observation, piece):
        return self._chooser.observe(observation, piece)


def cut(trajectory: Trajectory, end: int, *, observed: int) -> Trajectory:
    """As its time limit would have left it after so many tokens and observations."""
    short = deepcopy(trajectory)
    for name in ("ids", "roles", "logprobs", "forced"):
        setattr(short, name, getattr(short, name)[:end])
    short.spans = [span for span in short.spans if span.start < end]
    short.steps = [step for step in short.steps if step.end <= end]
    for step in short.steps[observed:]:
        step.observation = None
    short.answer, short.status = None, RolloutStatus.TRUNCATED_MAX_TIME
    return short


def alone(rollout: Rollout, recorded: list[Trajectory]) -> list[Trajectory]:
    return [replay(rollout, [trajectory])[0] for trajectory in recorded]


def assert_equal(recorded, replayed) -> None:
    for one, other in zip(recorded, replayed, strict=True):
        assert differences(one, other) == []


def test_a_replay_equals_its_recording(agent, samples, recorded):
    assert_equal(recorded, alone(agent.rollout, recorded))
    batch = agent.rollout.run(samples)
    assert_equal(batch, replay(agent.rollout, batch))


@pytest.mark.parametrize("before", [0, 7, 20])
def test_what_the_clock_ended_ends_there_again(agent, samples, before):
    """Recorded with a limit that one slow draw uses up, replayed under the same settings."""
    hasty = agent.rollout.with_config(replace(SAMPLED, max_time_s=HASTY_S))
    run = hasty.run(samples, make_chooser=lambda i: Dawdles(hasty.sampler(i), before=before))
    assert {each.status for each in run} == {RolloutStatus.TRUNCATED_MAX_TIME}
    assert_equal(run, replay(hasty, run))


def test_a_replay_takes_the_time_that_it_needs(agent, recorded):
    """A limit that would end every trajectory at its first token ends none."""
    hurried = agent.rollout.with_config(replace(SAMPLED, max_time_s=1e-9))
    assert_equal(recorded, alone(hurried, recorded))


def test_a_recording_that_ends_at_a_tool_ends_before_its_observation(agent, recorded):
    waiting = [cut(each, each.steps[0].end, observed=0) for each in recorded]
    replayed = alone(agent.rollout, waiting)
    assert_equal(waiting, replayed)
    assert [each.steps[-1].observation for each in replayed] == [None, None]


def test_a_recording_that_ends_behind_an_observation_ends_there(agent, recorded):
    shown = [cut(each, behind_observation(each), observed=1) for each in recorded]
    replayed = alone(agent.rollout, shown)
    assert_equal(shown, replayed)
    assert all(each.roles[-1] is TokenRole.OBSERVATION for each in replayed)


def behind_observation(trajectory: Trajectory) -> int:
    roles, end = trajectory.roles, trajectory.steps[0].end
    while roles[end] is TokenRole.OBSERVATION:
        end += 1
    return end


def test_a_recording_without_a_token_has_none_again(agent, recorded):
    prompts = [cut(each, each.roles.count(TokenRole.PROMPT), observed=0) for each in recorded]
    assert_equal(prompts, alone(agent.rollout, prompts))


def test_a_replay_that_goes_otherwise_is_told(agent, recorded):
    """The recording's status is given to what ended with it, and to nothing else."""
    short = cut(recorded[0], recorded[0].steps[0].start + 9, observed=0)
    other = replace(short, ids=[*short.ids[:-1], short.ids[-1] + 1])
    [replayed] = replay(agent.rollout, [other])
    assert [each.split(":")[0] for each in differences(other, replayed)] == ["ids"]
    answered = replace(deepcopy(recorded[0]), status=RolloutStatus.ANSWERED)
    [replayed] = replay(agent.rollout, [answered])
    assert replayed.status is recorded[0].status


def test_a_batch_is_repeatable_by_default_from_python_and_from_the_command_line():
    assert not RolloutConfig().overlap
    assert agent_config().rollout.overlap == RolloutConfig().overlap
