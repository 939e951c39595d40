"""One agent from settings: checkpoint folders, variants, and what belongs to neither."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pixelis_fast.agent import Agent, AgentConfig, build_agent
from pixelis_fast.policy.engine import EngineConfig
from pixelis_fast.policy.limits import PRESET_LIMITS
from pixelis_fast.policy.quantize import Int8Linear
from pixelis_fast.policy.sampling import Sampling
from pixelis_fast.policy.tokenizer import EMBEDDED_FOLDER
from pixelis_fast.policy.weights import save_policy
from pixelis_fast.rollout import RolloutConfig
from pixelis_fast.script import Script
from pixelis_fast.types import RolloutStatus, Sample, Trajectory
from tests.media import clip, picture

SAMPLED = RolloutConfig(max_tokens=60, sampling=Sampling(temperature=1.0, seed=2))


@pytest.fixture(scope="module")
def agent() -> Agent:
    return build_agent(AgentConfig(policy="unit", rollout=SAMPLED))


@pytest.fixture(scope="module")
def folder(agent, tmp_path_factory) -> Path:
    """The agent's policy as a checkpoint: weights, tokenizer, and both preprocessor files."""
    folder = tmp_path_factory.mktemp("checkpoint") / "unit"
    save_policy(agent.policy, folder)
    for path in EMBEDDED_FOLDER.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    limits = PRESET_LIMITS["unit"]
    sizes = {"preprocessor_config": limits.image, "video_preprocessor_config": limits.video}
    for name, limit in sizes.items():
        size = {"shortest_edge": limit.min_pixels, "longest_edge": limit.max_pixels}
        row = {"size": size, "max_frames": limits.video.max_frames}
        (folder / f"{name}.json").write_text(json.dumps(row))
    return folder


def ask(agent: Agent, **options) -> Trajectory:
    media = agent.tools.add_media(picture("coins.png"))
    [trajectory] = agent.rollout.run([Sample("1", (media,), "How many?")], **options)
    return trajectory


def test_a_checkpoint_folder_gives_the_same_trajectory(agent, folder):
    loaded = build_agent(AgentConfig(policy=str(folder), rollout=SAMPLED))
    assert not [note for note in loaded.degraded if "random weights" in note]
    expected, got = ask(agent), ask(loaded)
    assert (got.ids, got.logprobs) == (expected.ids, expected.logprobs)


def test_a_checkpoints_tower_serves_localize(folder):
    loaded = build_agent(AgentConfig(policy=str(folder)))
    call = (
        '<tool_call>\n{"name":"localize","arguments":{"media":0,"event":"appearance",'
        '"box":[300,200,700,800],"time":0.5}}\n</tool_call><|im_end|>'
    )
    ids = loaded.tokenizer.encode_structure(call + "<answer>so</answer><|im_end|>")
    media = loaded.tools.add_media(clip("carphone_pristine.mp4"))
    [trajectory] = loaded.rollout.run(
        [Sample("2", (media,), "When?")], make_chooser=lambda index: Script(ids)
    )
    observation = trajectory.steps[0].observation
    assert observation.error is None
    assert observation.degraded is None


def test_a_variant_shares_the_policy(agent):
    plain = agent.variant(replace(agent.config, engine=EngineConfig(keep_kv=False)))
    assert plain.policy is agent.policy
    assert ask(plain).ids == ask(agent).ids


def test_a_variant_of_another_policy_is_refused(agent):
    with pytest.raises(ValueError, match="variant: expected the policy"):
        agent.variant(replace(agent.config, weights_seed=9))


def test_settings_survive_json(agent):
    assert AgentConfig.from_json(json.loads(json.dumps(agent.config.to_json()))) == agent.config


def test_unknown_settings_are_named(agent):
    with pytest.raises(ValueError, match="got \\['colour'\\]"):
        AgentConfig.from_json(agent.config.to_json() | {"colour": 1})


def test_random_weights_need_a_preset(folder):
    with pytest.raises(ValueError, match="random_weights: expected a preset"):
        build_agent(AgentConfig(policy=str(folder), random_weights=True))


def test_older_traces_name_their_engine(agent):
    """Before the engine had settings of its own, three of them were the agent's."""
    row = json.loads(json.dumps(agent.config.to_json()))
    engine = row.pop("engine")
    for name in ("loop", "int8"):
        del row[name]
    for name in ("call_sampling", "embeddings", "overlap"):
        del row["rollout"][name]
    row |= {name: engine[name] for name in ("vision_cache_bytes", "prefix_cache_bytes")}
    read = AgentConfig.from_json(row | {"keep_kv": False})
    assert read.engine == EngineConfig(keep_kv=False)
    assert read.rollout == agent.config.rollout


def test_int8_weights_serve_after_their_gate():
    small = build_agent(AgentConfig(policy="unit", dtype="bfloat16", int8=True, rollout=SAMPLED))
    assert isinstance(small.policy.layers[0].down, Int8Linear)
    assert ask(small).status is not RolloutStatus.FAILED
    with pytest.raises(ValueError, match="int8: expected dtype bfloat16 with it, got float32"):
        AgentConfig(policy="unit", int8=True)


def test_settings_of_calls_survive_json(agent):
    rollout = replace(agent.config.rollout, call_sampling=Sampling(seed=4))
    config = replace(agent.config, rollout=rollout)
    assert AgentConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
