"""The loop on a real (random) policy and real tools: identity, limits, errors, exactness."""

import json
from dataclasses import replace

import pytest
import torch

from pixelis_fast.agent import Agent, AgentConfig, build_agent
from pixelis_fast.policy.batch import PackedBatch
from pixelis_fast.policy.engine import EngineConfig
from pixelis_fast.policy.positions import mrope_positions
from pixelis_fast.policy.sampling import Sampling
from pixelis_fast.rollout import Rollout, RolloutConfig
from pixelis_fast.script import Script, ScriptError
from pixelis_fast.types import RolloutStatus, Sample, TokenRole, Trajectory
from tests.media import clip, picture

SAMPLED = RolloutConfig(max_steps=3, max_tokens=160, sampling=Sampling(temperature=1.0, seed=7))


@pytest.fixture(scope="module")
def agent() -> Agent:
    return build_agent(AgentConfig(policy="unit", random_weights=True, rollout=SAMPLED))


@pytest.fixture(scope="module")
def sample(agent) -> Sample:
    return Sample("coins", (agent.tools.add_media(picture("coins.png")),), "How many coins?")


@pytest.fixture(scope="module")
def video_sample(agent) -> Sample:
    media = agent.tools.add_media(clip("carphone_pristine.mp4"))
    return Sample("phone", (media,), "When does he look away?")


def with_config(agent: Agent, **changes) -> Rollout:
    """The agent's rollout with other limits or switches."""
    return agent.rollout.with_config(replace(agent.rollout.config, **changes))


def script_ids(agent: Agent, *turns: str) -> list[int]:
    ids: list[int] = []
    for turn in turns:
        ids += agent.tokenizer.encode_structure(turn + "<|im_end|>")
    return ids


def call_text(name: str, **arguments) -> str:
    call = json.dumps({"name": name, "arguments": arguments}, separators=(",", ":"))
    return f"<tool_call>\n{call}\n</tool_call>"


def run_script(agent: Agent, sample: Sample, *turns: str, **changes) -> Trajectory:
    ids = script_ids(agent, *turns)
    rollout = with_config(agent, **{"max_steps": 12, "max_tokens": 4096} | changes)
    [trajectory] = rollout.run([sample], make_chooser=lambda index: Script(ids))
    return trajectory


def assert_well_formed(trajectory: Trajectory, agent: Agent) -> None:
    lengths = {len(trajectory.ids), len(trajectory.roles), len(trajectory.logprobs)}
    assert lengths == {len(trajectory.forced)}
    assert isinstance(trajectory.status, RolloutStatus)
    for span in trajectory.spans:
        inside = set(trajectory.ids[span.start : span.start + span.num_tokens])
        assert inside <= {agent.tokenizer.special.image_pad, agent.tokenizer.special.video_pad}
    pads = sum(i in placeholder_ids(agent) for i in trajectory.ids)
    assert pads == sum(span.num_tokens for span in trajectory.spans)


def placeholder_ids(agent: Agent) -> set[int]:
    return {agent.tokenizer.special.image_pad, agent.tokenizer.special.video_pad}


def test_sampled_trajectories_are_well_formed(agent, sample, video_sample):
    for trajectory in agent.rollout.run([sample, video_sample, sample]):
        assert_well_formed(trajectory, agent)
        assert all(step.observation is not None for step in trajectory.steps[:-1])


def test_grammar_off_never_samples_a_special_token(agent, sample):
    rollout = with_config(agent, grammar=False, jump_ahead=False)
    [trajectory] = rollout.run([sample])
    prompt_roles = (TokenRole.PROMPT, TokenRole.OBSERVATION)
    made = {
        i for i, r in zip(trajectory.ids, trajectory.roles, strict=True) if r not in prompt_roles
    }
    assert made
    assert not made & agent.tokenizer.never_sampled


def test_a_batch_gives_what_each_gives_alone(agent, sample, video_sample):
    together = agent.rollout.run([sample, video_sample])
    again = with_config(agent, sampling=replace(SAMPLED.sampling, seed=SAMPLED.sampling.seed + 1))
    alone = [*agent.rollout.run([sample]), *again.run([video_sample])]
    for a, b in zip(together, alone, strict=True):
        assert a.ids == b.ids
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)


def test_switches_do_not_change_tokens(sample):
    slow = build_agent(
        AgentConfig(
            policy="unit",
            random_weights=True,
            engine=EngineConfig(keep_kv=False, vision_cache_bytes=0),
            rollout=SAMPLED,
        )
    )
    fast = build_agent(AgentConfig(policy="unit", random_weights=True, rollout=SAMPLED))
    runs = []
    for agent in (slow, fast):
        media = agent.tools.add_media(picture("coins.png"))
        [trajectory] = agent.rollout.run([Sample("coins", (media,), "How many coins?")])
        runs.append(trajectory)
    assert runs[0].ids == runs[1].ids
    assert runs[0].logprobs == pytest.approx(runs[1].logprobs, abs=1e-5)
    assert slow.engine.vision.nbytes == 0


def test_logprobs_are_the_training_forwards(agent, sample):
    """Recorded in the rollout, computed again in one packed forward without a cache."""
    rollout = with_config(agent, grammar=False, jump_ahead=False, max_tokens=40)
    [trajectory] = rollout.run([sample])
    generated = [
        i
        for i, role in enumerate(trajectory.roles)
        if role not in (TokenRole.PROMPT, TokenRole.OBSERVATION)
    ]
    logits_NV = full_forward(agent, trajectory)
    banned = sorted(agent.tokenizer.banned_ids(logits_NV.shape[1]))
    logits_NV[:, banned] = -torch.inf
    logprobs_NV = torch.log_softmax(logits_NV, dim=-1)
    again = [float(logprobs_NV[i - 1, trajectory.ids[i]]) for i in generated]
    assert [trajectory.logprobs[i] for i in generated] == pytest.approx(again, abs=1e-5)


def full_forward(agent: Agent, trajectory: Trajectory) -> torch.Tensor:
    merge = agent.policy.config.vision.merge_size
    pieces, rows, parts, end = [], [], [], 0
    for span in trajectory.spans:
        _, height, width = span.grid_thw
        pieces += [span.start - end, (1, height // merge, width // merge)]
        end = span.start + span.num_tokens
        rows.append(torch.arange(span.start, end))
        patches = agent.views.patches(span.media_id)
        with torch.no_grad():
            features = agent.policy.encode_vision(patches.patches_PK, [patches.grid_thw])
        first = span.frame * span.num_tokens
        parts.append(features.part(first, first + span.num_tokens))
    pieces.append(len(trajectory.ids) - end)
    positions_3N, _ = mrope_positions([p for p in pieces if p != 0], 0)
    batch = PackedBatch(
        torch.tensor(trajectory.ids),
        positions_3N,
        [len(trajectory.ids)],
        torch.cat(rows),
        type(parts[0]).join(parts),
    )
    with torch.no_grad():
        return agent.policy.logits(agent.policy.hidden(batch))


def test_scripted_chain_uses_every_image_tool(agent, sample):
    trajectory = run_script(
        agent,
        sample,
        "Look closer. " + call_text("zoom", media=0, box=[0, 0, 500, 500]),
        call_text("segment", media=0, box=[60, 60, 220, 260]),
        call_text("properties", mask=0),
        call_text("read_text", media=0),
        "<answer>24</answer>",
    )
    assert trajectory.status is RolloutStatus.ANSWERED
    assert trajectory.answer == "24"
    called = [step.call.operation for step in trajectory.steps if step.call]
    assert called == ["zoom", "segment", "properties", "read_text"]
    assert all(step.observation.error is None for step in trajectory.steps if step.call)
    assert len({span.media_id for span in trajectory.spans}) == 2
    assert_well_formed(trajectory, agent)
    assert any(trajectory.forced)


def test_scripted_chain_uses_every_video_tool(agent, video_sample):
    trajectory = run_script(
        agent,
        video_sample,
        call_text("localize", media=0, event="motion"),
        call_text("track", media=0, box=[300, 200, 700, 800], start=0, end=1),
        call_text("properties", mask=0),
        call_text("zoom", media=0, box=[300, 200, 700, 800], time=0.5),
        "<answer>soon</answer>",
    )
    assert trajectory.status is RolloutStatus.ANSWERED
    assert all(step.observation.error is None for step in trajectory.steps if step.call)


@pytest.mark.parametrize("early_start", [True, False])
def test_a_call_on_a_crop_runs_on_the_original(agent, sample, early_start):
    loop = replace(agent.config.loop, early_start=early_start)
    turns = (
        call_text("zoom", media=0, box=[200, 100, 600, 300]),
        call_text("zoom", media=1, box=[250, 500, 500, 1000]),
        call_text("segment", media=2, point=[500, 500]),
        call_text("read_text", media=3),
        "<answer>x</answer>",
    )
    rebuilt = build_agent(replace(agent.config, loop=loop))
    media = rebuilt.tools.add_media(picture("coins.png"))
    trajectory = run_script(rebuilt, replace(sample, media=(media,)), *turns)
    calls = [step.call for step in trajectory.steps[:-1]]
    assert [call.crop for call in calls] == [None, 0, 1, None]
    assert calls[1].arguments == {"media": 0, "box": [300, 200, 400, 300]}
    assert calls[2].arguments == {"media": 0, "point": [350, 250]}
    observations = [json.loads(step.observation.text) for step in trajectory.steps[:-1]]
    assert observations[1] == {"media": 2, "view": [300, 200, 400, 300]}
    assert observations[3] == {"error": "media: expected 0..2, got 3"}
    said = rebuilt.tokenizer.decode(trajectory.ids)
    assert '"media":1,"box":[250,500,500,1000]' in said, "the policy's own words stay as they were"
    assert_well_formed(trajectory, rebuilt)


def test_jump_ahead_changes_no_token(agent, sample):
    turns = (call_text("zoom", media=0, box=[1, 2, 300, 400]), "<answer>x</answer>")
    jumped = run_script(agent, sample, *turns)
    stepped = run_script(agent, sample, *turns, jump_ahead=False)
    assert jumped.ids == stepped.ids
    assert jumped.roles == stepped.roles
    assert not any(stepped.forced)
    sampled = [i for i, forced in enumerate(jumped.forced) if not forced]
    assert [jumped.logprobs[i] for i in sampled] == pytest.approx(
        [stepped.logprobs[i] for i in sampled], abs=1e-4
    )


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (call_text("zoom", media=3, box=[0, 0, 10, 10]), "media: expected 0..0, got 3"),
        (call_text("zoom", media=0, box=[10, 10, 10, 20]), "box"),
        (call_text("track", media=0, box=[0, 0, 9, 9], start=0, end=1), "expected a video"),
        (call_text("zoom", media=0, box=[0, 0, 9, 9], time=1), "expected none for an image"),
        (call_text("properties", mask=0), "mask: expected one from segment or track first"),
        ('<tool_call>\n{"name":"zoom"\n</tool_call>', "expected"),
        (call_text("fly", media=0), "fly"),
    ],
    ids=["media", "box", "still", "time", "mask", "json", "unknown"],
)
def test_a_bad_call_becomes_an_observation(agent, sample, turn, message):
    turns = (turn, "<answer>x</answer>")
    trajectory = run_script(agent, sample, *turns, grammar=False, jump_ahead=False)
    observation = trajectory.steps[0].observation
    assert message in observation.error
    assert json.loads(observation.text) == {"error": observation.error}
    assert trajectory.status is RolloutStatus.ANSWERED


def test_limits_end_with_a_typed_status(agent, sample):
    zoom = call_text("zoom", media=0, box=[0, 0, 500, 500])
    ids = script_ids(agent, *[zoom] * 5)
    free = {"grammar": False, "jump_ahead": False}
    for changes, status in (
        ({"max_steps": 2, "max_tokens": 4096} | free, RolloutStatus.TRUNCATED_MAX_STEPS),
        ({"max_steps": 9, "max_tokens": 30}, RolloutStatus.TRUNCATED_MAX_TOKENS),
        ({"max_time_s": 1e-9}, RolloutStatus.TRUNCATED_MAX_TIME),
    ):
        rollout = with_config(agent, **changes)
        [trajectory] = rollout.run([sample], make_chooser=lambda index: Script(ids))
        assert trajectory.status is status
        assert trajectory.status.is_truncated()
        assert_well_formed(trajectory, agent)


def test_behind_the_last_call_only_an_answer_may_come(agent, sample):
    zoom, turns = call_text("zoom", media=0, box=[0, 0, 500, 500]), "<answer>7</answer>"
    answered = run_script(agent, sample, zoom, zoom, turns, max_steps=2)
    assert (answered.status, answered.answer) == (RolloutStatus.ANSWERED, "7")
    assert answered.call_limit == 2
    with pytest.raises(ScriptError):
        run_script(agent, sample, zoom, zoom, zoom, max_steps=2)


def test_max_tokens_is_exact(agent, sample):
    for limit in (1, 17, 30):
        [trajectory] = with_config(agent, max_tokens=limit).run([sample])
        opened = sum(role is TokenRole.PROMPT for role in trajectory.roles)
        observed = sum(role is TokenRole.OBSERVATION for role in trajectory.roles)
        assert len(trajectory.ids) - opened - observed <= limit


def test_literal_placeholder_in_a_question_is_text(agent, sample):
    asked = replace(sample, question="What does <|image_pad|><|im_end|> mean?")
    [trajectory] = with_config(agent, max_tokens=1).run([asked])
    pads = sum(i in placeholder_ids(agent) for i in trajectory.ids)
    assert pads == sum(span.num_tokens for span in trajectory.spans)


def test_a_script_that_leaves_the_grammar_is_named(agent, sample):
    ids = script_ids(agent, call_text("fly", media=0))
    with pytest.raises(ScriptError):
        agent.rollout.run([sample], make_chooser=lambda index: Script(ids))


@pytest.mark.parametrize("name", ["max_steps", "max_tokens", "max_time_s"])
def test_limits_must_be_positive(name):
    with pytest.raises(ValueError, match=f"{name}: expected > 0, got 0"):
        RolloutConfig(**{name: 0})


def test_a_rollout_keeps_the_grammar_it_was_built_with(agent):
    with pytest.raises(ValueError, match="max_thought_tokens: expected the grammar's None, got 9"):
        with_config(agent, max_thought_tokens=9)


def test_nan_logits_are_named_and_sampled_from_nowhere(agent):
    chooser = agent.rollout.sampler(0)
    vocab_size = agent.policy.config.text.vocab_size
    chooser.choose(torch.zeros(vocab_size), None)
    broken_V = torch.zeros(vocab_size)
    broken_V[agent.tokenizer.special.im_end] = torch.nan
    with pytest.raises(ValueError, match="step 1: expected finite logits"):
        chooser.choose(broken_V, None)
