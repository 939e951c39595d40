"""A policy's weights: from a checkpoint folder, from a random seed, and back to a folder.

Names and shapes on disk are exactly transformers'. `hf_tensors` gives, for each of those names, a
view of our parameter (rows of a fused linear, a reshaped patch embedding): loading copies into the
views, saving writes them, and a test compares gradients through the same map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pixelis_fast.policy.checkpoint import (
    CheckpointError,
    read_config,
    read_tensors,
    tensor_files,
    write_checkpoint,
)
from pixelis_fast.policy.config import PRESETS, PolicyConfig
from pixelis_fast.policy.decoder import Layer
from pixelis_fast.policy.model import Policy
from pixelis_fast.policy.vision import Merger, VisionBlock

HEAD = "lm_head.weight"
EMBEDDING = "model.language_model.embed_tokens.weight"
INIT_STD = 0.02
"""transformers' initializer_range for Qwen3-VL."""
WAVE = 0.3
"""Amplitude of a drawn policy's position embedding."""
DEFAULT_SHARD_BYTES = 5 * 10**9

OfParameter = Callable[[Tensor], Tensor]


def load_policy(
    folder: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Policy:
    """The policy of a checkpoint folder, in evaluation mode."""
    config = PolicyConfig.from_hf(read_config(folder))
    files = tensor_files(folder)
    policy = empty_policy(config, device=device, dtype=dtype)
    targets = hf_tensors(policy)
    _check_names(files.keys(), targets, tied=config.tied, source=str(folder))
    for name, tensor in read_tensors(files, device=device):
        _copy(tensor, targets, name=name)
    if HEAD in files and config.tied:
        _check_tied_head(folder, targets)
    return policy.eval()


def save_policy(
    policy: Policy, folder: str | Path, *, max_shard_bytes: int = DEFAULT_SHARD_BYTES
) -> None:
    """A folder that `load_policy` and transformers' from_pretrained read."""
    config = policy.config.to_hf() | {"dtype": str(policy.dtype).removeprefix("torch.")}
    write_checkpoint(
        folder, config=config, tensors=hf_tensors(policy), max_shard_bytes=max_shard_bytes
    )


def random_policy(
    preset: str | PolicyConfig,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Policy:
    """Weights drawn on the device itself: no checkpoint and no copy on the host."""
    policy = empty_policy(preset_config(preset), device=device, dtype=dtype)
    generator = torch.Generator(device=policy.device).manual_seed(seed)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            _initialize(name, parameter, generator)
    return policy.eval()


def preset_config(preset: str | PolicyConfig) -> PolicyConfig:
    """A preset's config by name; a config passes through."""
    if isinstance(preset, PolicyConfig):
        return preset
    if preset not in PRESETS:
        raise ValueError(f"preset: expected one of {sorted(PRESETS)}, got {preset!r}")
    return PRESETS[preset]


def empty_policy(config: PolicyConfig, *, device: torch.device | str, dtype: torch.dtype) -> Policy:
    """Storage on the device with undefined values."""
    with torch.device("meta"):
        policy = Policy(config)
    return policy.to(dtype).to_empty(device=device)


def to_hf_state_dict(policy: Policy) -> dict[str, Tensor]:
    """transformers' state dict, as views of our parameters."""
    tensors = hf_tensors(policy)
    # transformers lists a tied head under both names.
    return tensors | ({HEAD: tensors[EMBEDDING]} if policy.config.tied else {})


def load_hf_state_dict(policy: Policy, mapping: Mapping[str, Tensor]) -> None:
    """Copies transformers' state dict into the policy; every tensor must be there and fit."""
    targets = hf_tensors(policy)
    _check_names(mapping.keys(), targets, tied=policy.config.tied, source="state dict")
    for name, tensor in mapping.items():
        _copy(tensor, targets, name=name)


def hf_tensors(policy: Policy, of: OfParameter = lambda p: p.detach()) -> dict[str, Tensor]:
    """Hugging Face name -> view of `of(parameter)` in Hugging Face's shape (of = its value)."""
    text, vision = "model.language_model", "model.visual"
    tower = policy.vision
    config = policy.config.vision
    kernel = (config.in_channels, config.temporal_patch_size, config.patch_size, config.patch_size)
    tensors = {
        EMBEDDING: of(policy.embed_tokens.weight),
        f"{text}.norm.weight": of(policy.norm.weight),
        f"{vision}.patch_embed.proj.weight": of(tower.patch_embed.weight).unflatten(1, kernel),
        f"{vision}.patch_embed.proj.bias": of(tower.patch_embed.bias),
        f"{vision}.pos_embed.weight": of(tower.pos_embed),
        **_merger(tower.merger, f"{vision}.merger", of),
    }
    for index, layer in enumerate(policy.layers):
        assert isinstance(layer, Layer)
        tensors |= _text_layer(layer, f"{text}.layers.{index}", of)
    for index, block in enumerate(tower.blocks):
        assert isinstance(block, VisionBlock)
        tensors |= _vision_block(block, f"{vision}.blocks.{index}", of)
    for index, merger in enumerate(tower.deepstack_mergers):
        assert isinstance(merger, Merger)
        tensors |= _merger(merger, f"{vision}.deepstack_merger_list.{index}", of)
    if policy.lm_head is not None:
        tensors[HEAD] = of(policy.lm_head.weight)
    return tensors


def _text_layer(layer: Layer, prefix: str, of: OfParameter) -> dict[str, Tensor]:
    attention = layer.attention
    head_rows = attention.head_dim * attention.num_kv_heads
    query_rows = attention.head_dim * attention.num_heads
    query, key, value = of(attention.qkv.weight).split((query_rows, head_rows, head_rows))
    gate, up = of(layer.gate_up.weight).chunk(2)
    return {
        f"{prefix}.self_attn.q_proj.weight": query,
        f"{prefix}.self_attn.k_proj.weight": key,
        f"{prefix}.self_attn.v_proj.weight": value,
        f"{prefix}.self_attn.o_proj.weight": of(attention.out.weight),
        f"{prefix}.self_attn.q_norm.weight": of(attention.q_norm),
        f"{prefix}.self_attn.k_norm.weight": of(attention.k_norm),
        f"{prefix}.mlp.gate_proj.weight": gate,
        f"{prefix}.mlp.up_proj.weight": up,
        f"{prefix}.mlp.down_proj.weight": of(layer.down.weight),
        f"{prefix}.input_layernorm.weight": of(layer.attention_norm.weight),
        f"{prefix}.post_attention_layernorm.weight": of(layer.mlp_norm.weight),
    }


def _vision_block(block: VisionBlock, prefix: str, of: OfParameter) -> dict[str, Tensor]:
    return {
        **_affine(block.norm1, f"{prefix}.norm1", of),
        **_affine(block.norm2, f"{prefix}.norm2", of),
        **_affine(block.qkv, f"{prefix}.attn.qkv", of),
        **_affine(block.proj, f"{prefix}.attn.proj", of),
        **_affine(block.fc1, f"{prefix}.mlp.linear_fc1", of),
        **_affine(block.fc2, f"{prefix}.mlp.linear_fc2", of),
    }


def _merger(merger: Merger, prefix: str, of: OfParameter) -> dict[str, Tensor]:
    return {
        **_affine(merger.norm, f"{prefix}.norm", of),
        **_affine(merger.fc1, f"{prefix}.linear_fc1", of),
        **_affine(merger.fc2, f"{prefix}.linear_fc2", of),
    }


def _affine(module: nn.Linear | nn.LayerNorm, prefix: str, of: OfParameter) -> dict[str, Tensor]:
    return {f"{prefix}.weight": of(module.weight), f"{prefix}.bias": of(module.bias)}


def _initialize(name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
    if name.endswith("bias"):
        parameter.zero_()
    elif "norm" in name:
        parameter.fill_(1.0)
    elif name.endswith("pos_embed"):
        parameter.copy_(waves(*parameter.shape))
    else:
        parameter.normal_(0.0, INIT_STD, generator=generator)


def waves(num_positions: int, size: int) -> Tensor:
    """(positions, size): sines and cosines of row and column (as in MAE, arXiv 2111.06377).

    Drawn like other weights (std 0.02) they are a twentieth of what a patch's pixels give, and a
    tower trained from scratch forgets where its patches are. Now they are as large as the pixels.
    """
    side = math.isqrt(num_positions)
    places = torch.arange(side, dtype=torch.float32) * (math.pi / side)
    angles_SF = places[:, None] * torch.linspace(0.5, 8, size // 4)
    wave_SF = torch.cat((angles_SF.sin(), angles_SF.cos()), dim=1)
    rows, columns = wave_SF.repeat_interleave(side, 0), wave_SF.repeat(side, 1)
    return WAVE * torch.nn.functional.pad(torch.cat((rows, columns), 1), (0, size % 4))


def _check_names(
    names: Iterable[str], targets: Mapping[str, Tensor], *, tied: bool, source: str
) -> None:
    given = set(names)
    allowed = {HEAD} if tied else set()
    missing = sorted(targets.keys() - given)
    unexpected = sorted(given - targets.keys() - allowed)
    if missing or unexpected:
        raise CheckpointError(
            f"{source}: expected the tensors of a Qwen3-VL policy, "
            f"got {_some(missing, 'missing')} and {_some(unexpected, 'unexpected')}"
        )


def _some(names: list[str], word: str) -> str:
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"{len(names)} {word}" + (f" ({shown})" if names else "")


def _copy(tensor: Tensor, targets: Mapping[str, Tensor], *, name: str) -> None:
    if name not in targets:
        return  # a tied head: its values are the embedding's
    target = targets[name]
    if target.shape != tensor.shape:
        raise CheckpointError(
            f"{name}: expected the shape {tuple(target.shape)}, got {tuple(tensor.shape)}"
        )
    target.copy_(tensor)


def _check_tied_head(folder: str | Path, targets: Mapping[str, Tensor]) -> None:
    files = {HEAD: tensor_files(folder)[HEAD]}
    embedding = targets[EMBEDDING]
    for _, head in read_tensors(files, device=embedding.device):
        if not torch.equal(head.to(embedding), embedding):
            raise CheckpointError(f"{HEAD}: expected the embedding (tied), got other values")
