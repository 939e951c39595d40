"""Checkpoint folders: transformers reads ours, we read theirs, broken ones say what is wrong."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from pixelis_fast.policy.checkpoint import CheckpointError
from pixelis_fast.policy.config import PRESETS, PolicyConfig
from pixelis_fast.policy.weights import (
    empty_policy,
    hf_tensors,
    load_hf_state_dict,
    load_policy,
    random_policy,
    save_policy,
    to_hf_state_dict,
    waves,
)
from tests.tiny_policy import hf_inputs, make_sample, our_batch, policy_of, tiny_config
from tests.tiny_policy import tiny_policy as make_policy

PIECES = [4, ("image", 4, 6), 5, ("video", 2, 4, 4), 3]
TOLERANCE = 1e-4
NUM_PARAMETERS = {
    # billions of parameters, from the shapes (the vision tower included, a tied head once)
    "qwen3-vl-2b": 2.13,
    "qwen3-vl-4b": 4.44,
    "qwen3-vl-8b": 8.77,
    "qwen3-vl-32b": 33.36,
}


def logits_of(policy, sample):
    with torch.inference_mode():
        return policy.logits(policy.hidden(our_batch(policy, sample)))


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("shard_bytes", [10**9, 200_000], ids=["one file", "sharded"])
def test_transformers_reads_what_we_save(tmp_path, tied, shard_bytes):
    policy = make_policy(tiny_config(tied=tied), seed=1)
    save_policy(policy, tmp_path, max_shard_bytes=shard_bytes)
    model = Qwen3VLForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32).eval()
    sample = make_sample(policy.config, PIECES)
    with torch.inference_mode():
        expected = model(**hf_inputs([sample])).logits[0]
    assert (logits_of(policy, sample) - expected).abs().max() < TOLERANCE
    again = load_policy(tmp_path)
    assert again.config == policy.config
    assert torch.equal(logits_of(again, sample), logits_of(policy, sample))
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard_bytes < 10**9)
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_we_read_what_transformers_saves(tmp_path, tied):
    config = tiny_config(tied=tied)
    model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**config.to_hf())).eval()
    model.save_pretrained(tmp_path, max_shard_size="300KB")
    policy = load_policy(tmp_path)
    assert policy.config == config
    sample = make_sample(config, PIECES)
    with torch.inference_mode():
        expected = model(**hf_inputs([sample])).logits[0]
    assert (logits_of(policy, sample) - expected).abs().max() < TOLERANCE
    assert torch.equal(logits_of(policy_of(model, config), sample), logits_of(policy, sample))


def test_saving_over_a_sharded_checkpoint_leaves_one_readable(tmp_path):
    save_policy(make_policy(seed=1), tmp_path, max_shard_bytes=200_000)
    second = make_policy(seed=2)
    save_policy(second, tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
    assert torch.equal(load_policy(tmp_path).norm.weight, second.norm.weight)


def test_dtype_is_the_callers_choice(tmp_path):
    policy = make_policy(seed=4)
    save_policy(policy, tmp_path)
    half = load_policy(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    sample = make_sample(policy.config, PIECES)
    logits = logits_of(half, sample)
    assert logits.dtype == torch.float32
    assert (logits - logits_of(policy, sample)).abs().max() < 0.1 * logits.abs().max()


def test_state_dict_round_trip():
    source, target = make_policy(seed=5), random_policy("unit", seed=6)
    load_hf_state_dict(target, to_hf_state_dict(source))
    for name, parameter in source.named_parameters():
        assert torch.equal(parameter, target.get_parameter(name)), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.language_model.norm.weight"), r"1 missing \(model\.language_model"),
        (lambda t: t.update(extra=torch.zeros(2)), r"1 unexpected \(extra\)"),
        (
            lambda t: t.update({"lm_head.weight": torch.zeros(3, 64)}),
            r"lm_head\.weight: expected the shape \(3072, 64\), got \(3, 64\)",
        ),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_wrong_tensors_are_named(tmp_path, change, message):
    save_policy(make_policy(), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_policy(tmp_path)


def test_missing_folder_config_and_weights(tmp_path):
    with pytest.raises(CheckpointError, match="got no such folder"):
        load_policy(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"config\.json: expected"):
        load_policy(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(tiny_config().to_hf()))
    with pytest.raises(CheckpointError, match="got neither"):
        load_policy(tmp_path)


@pytest.mark.parametrize("shard_bytes", [10**9, 200_000], ids=["one file", "sharded"])
def test_truncated_file_is_named(tmp_path, shard_bytes):
    save_policy(make_policy(), tmp_path, max_shard_bytes=shard_bytes)
    victim = max(tmp_path.glob("*.safetensors"))
    victim.write_bytes(victim.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=f"{victim.name}: expected a whole"):
        load_policy(tmp_path)


def test_missing_shard_is_named(tmp_path):
    save_policy(make_policy(), tmp_path, max_shard_bytes=200_000)
    victim = max(tmp_path.glob("*.safetensors"))
    victim.unlink()
    with pytest.raises(CheckpointError, match=victim.name):
        load_policy(tmp_path)


def test_tied_checkpoint_with_another_head_is_refused(tmp_path):
    policy = make_policy(tiny_config(tied=True))
    save_policy(policy, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    head = policy.embed_tokens.weight.detach()
    save_file(tensors | {"lm_head.weight": head.clone()}, tmp_path / "model.safetensors")
    load_policy(tmp_path)
    save_file(tensors | {"lm_head.weight": head + 1}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lm_head\.weight: expected the embedding"):
        load_policy(tmp_path)


def test_random_policy_is_a_function_of_its_seed():
    first, same, other = (random_policy("unit", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.head_weight, same.head_weight)
    assert not torch.equal(first.head_weight, other.head_weight)
    assert all(torch.isfinite(parameter).all() for parameter in first.parameters())
    with pytest.raises(ValueError, match="expected one of"):
        random_policy("qwen3-vl-9b")


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_have_transformers_names_and_shapes(preset):
    config = PRESETS[preset]
    policy = empty_policy(config, device="meta", dtype=torch.bfloat16)
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**config.to_hf()))
    expected = {name: p.shape for name, p in model.named_parameters()}
    assert {name: t.shape for name, t in hf_tensors(policy).items()} == expected
    billions = sum(p.numel() for p in policy.parameters()) / 1e9
    assert billions == pytest.approx(NUM_PARAMETERS.get(preset, billions), abs=0.01)
    assert PolicyConfig.from_hf(config.to_hf()) == config


def test_a_drawn_policy_tells_its_positions_apart_row_by_row():
    places = random_policy("unit").vision.pos_embed.detach().unflatten(0, (8, 8))
    rows, columns = places.chunk(2, dim=-1)
    assert torch.equal(rows, rows[:, :1].expand_as(rows))
    assert torch.equal(columns, columns[:1].expand_as(columns))
    apart = torch.cdist(places.flatten(0, 1), places.flatten(0, 1)) + torch.eye(64)
    assert apart.min() > 0.05
    odd = waves(9, 10)
    assert odd.shape == (9, 10)
    assert not odd[:, 8:].any()


def test_unit_is_under_a_million_parameters():
    assert sum(p.numel() for p in random_policy("unit").parameters()) < 1e6


def test_config_reads_the_older_spelling():
    config = PRESETS["qwen3-vl-8b"].to_hf()
    rope = config["text_config"].pop("rope_parameters")
    config["text_config"] |= {
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"mrope_section": [24, 20, 20], "rope_type": "default"},
    }
    config["vision_config"].pop("rope_parameters")
    assert PolicyConfig.from_hf(config) == PRESETS["qwen3-vl-8b"]


@pytest.mark.parametrize(
    ("where", "change", "message"),
    [
        (None, {"model_type": "qwen3_vl_moe"}, "model_type: expected 'qwen3_vl'"),
        ("text_config", {"attention_bias": True}, "attention_bias: expected False"),
        ("text_config", {"num_key_value_heads": 3}, "num_heads: expected a multiple"),
        ("vision_config", {"out_hidden_size": 5}, "out_hidden_size: expected the decoder's"),
        ("vision_config", {"deepstack_visual_indexes": [99]}, "deepstack_layers: expected"),
    ],
)
def test_config_refuses_what_it_cannot_run(where, change, message):
    config = tiny_config().to_hf()
    (config[where] if where else config).update(change)
    with pytest.raises(ValueError, match=message):
        PolicyConfig.from_hf(config)


def test_config_names_missing_keys():
    config = tiny_config().to_hf()
    del config["image_token_id"], config["vision_config"]["depth"]
    with pytest.raises(ValueError, match=r"config: expected the keys \['image_token_id'\]"):
        PolicyConfig.from_hf(config)
    with pytest.raises(ValueError, match=r"vision_config: expected the keys \['depth'\]"):
        PolicyConfig.from_hf(config | {"image_token_id": 5})


def test_special_ids_are_configurable():
    config = PRESETS["unit"].with_special_ids(
        image_pad=1, video_pad=2, vision_start=3, vision_end=4
    )
    assert (config.image_pad, config.video_pad) == (1, 2)
    assert PolicyConfig.from_hf(config.to_hf()) == config
    with pytest.raises(ValueError, match="image_pad: expected an id below"):
        config.with_special_ids(image_pad=3072, video_pad=2, vision_start=3, vision_end=4)
