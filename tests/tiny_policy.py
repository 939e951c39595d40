"""Small random Qwen3-VL models and inputs, built twice: as ours and as transformers takes them.

A sample is a list of pieces: an int is a run of random text, ("image", h, w) a still of h x w
patches, ("video", t, h, w) a video of t frame pairs, each behind its own timestamp text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from pixelis_fast.policy.batch import PackedBatch
from pixelis_fast.policy.config import PRESETS, PolicyConfig
from pixelis_fast.policy.model import Policy
from pixelis_fast.policy.positions import mrope_positions
from pixelis_fast.policy.weights import load_hf_state_dict, random_policy, to_hf_state_dict

Piece = int | tuple[str, int, int] | tuple[str, int, int, int]
FIRST_TEXT_ID, LAST_TEXT_ID = 10, 2000
STAMP_TOKENS = 3
SPREAD = 0.15
"""Weights' standard deviation in tests: far enough from 0.02 that a wrong layer shows."""


def tiny_config(*, tied: bool = False, heads: tuple[int, int] = (4, 2)) -> PolicyConfig:
    unit = PRESETS["unit"]
    text = replace(unit.text, num_heads=heads[0], num_kv_heads=heads[1])
    return replace(unit, text=text, tied=tied)


def tiny_policy(config: PolicyConfig | None = None, *, seed: int = 0) -> Policy:
    """Random weights with norms and biases away from their neutral values."""
    policy = random_policy(config or tiny_config(), seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * SPREAD
            parameter.copy_(1 + noise if "norm" in name and "bias" not in name else noise)
    return policy


def hf_twin(policy: Policy) -> Qwen3VLForConditionalGeneration:
    """transformers' model with our weights."""
    config = Qwen3VLConfig(**policy.config.to_hf())
    config._attn_implementation = "sdpa"
    model = Qwen3VLForConditionalGeneration(config).eval()
    model.load_state_dict(to_hf_state_dict(policy), strict=True)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def policy_of(model: Qwen3VLForConditionalGeneration, config: PolicyConfig) -> Policy:
    """Ours with the weights of a transformers model."""
    policy = random_policy(config, seed=99)
    load_hf_state_dict(policy, model.state_dict())
    return policy


@dataclass
class TinySample:
    """One sequence and its pixels."""

    ids: list[int]
    types: list[int]
    """0 text, 1 image, 2 video: transformers' mm_token_type_ids."""
    position_pieces: list[int | tuple[int, int, int]]
    visual_index: list[int]
    grids: list[tuple[int, int, int]]
    """In order of appearance, patches; a video has one grid with t > 1."""
    patches: list[Tensor]
    kinds: list[str]

    @property
    def positions(self) -> Tensor:
        return mrope_positions(self.position_pieces, 0)[0]

    @property
    def next_position(self) -> int:
        return mrope_positions(self.position_pieces, 0)[1]


def make_sample(config: PolicyConfig, pieces: Sequence[Piece], *, seed: int = 0) -> TinySample:
    generator = torch.Generator().manual_seed(seed)
    sample = TinySample([], [], [], [], [], [], [])
    for piece in pieces:
        if isinstance(piece, int):
            _add_text(sample, piece, generator)
        else:
            _add_vision(sample, config, piece, generator)
    return sample


def our_batch(policy: Policy, sample: TinySample) -> PackedBatch:
    visual = None
    if sample.grids:
        visual = policy.encode_vision(torch.cat(sample.patches), sample.grids)
    return PackedBatch(
        input_ids_N=torch.tensor(sample.ids),
        positions_3N=sample.positions,
        lengths=[len(sample.ids)],
        visual_index_M=torch.tensor(sample.visual_index) if visual is not None else None,
        visual=visual,
    )


def cut(batch: PackedBatch, start: int, stop: int) -> PackedBatch:
    """Tokens start .. stop of a one-sequence batch, with their part of the features."""
    visual = index = None
    if batch.visual is not None and batch.visual_index_M is not None:
        low, high = torch.searchsorted(batch.visual_index_M, torch.tensor([start, stop])).tolist()
        if high > low:
            visual = batch.visual.part(low, high)
            index = batch.visual_index_M[low:high] - start
    return PackedBatch(
        batch.input_ids_N[start:stop],
        batch.positions_3N[:, start:stop],
        [stop - start],
        index,
        visual,
    )


def hf_inputs(samples: Sequence[TinySample], *, padding_side: str = "right") -> dict[str, Tensor]:
    """A padded transformers batch."""
    longest = max(len(sample.ids) for sample in samples)
    padded = [_pad(sample, longest, padding_side) for sample in samples]
    inputs = {
        "input_ids": torch.tensor([ids for ids, _, _ in padded]),
        "mm_token_type_ids": torch.tensor([types for _, types, _ in padded]),
        "attention_mask": torch.tensor([mask for _, _, mask in padded]),
    }
    for kind, pixels, grid in (
        ("image", "pixel_values", "image_grid_thw"),
        ("video", "pixel_values_videos", "video_grid_thw"),
    ):
        found = [
            (patches, thw)
            for sample in samples
            for patches, thw, its_kind in zip(
                sample.patches, sample.grids, sample.kinds, strict=True
            )
            if its_kind == kind
        ]
        if found:
            inputs[pixels] = torch.cat([patches for patches, _ in found])
            inputs[grid] = torch.tensor([thw for _, thw in found])
    return inputs


def _pad(sample: TinySample, length: int, side: str) -> tuple[list[int], list[int], list[int]]:
    missing = [0] * (length - len(sample.ids))
    mask = [1] * len(sample.ids)
    if side == "right":
        return sample.ids + missing, sample.types + missing, mask + missing
    return missing + sample.ids, missing + sample.types, missing + mask


def _add_text(sample: TinySample, length: int, generator: torch.Generator) -> None:
    ids = torch.randint(FIRST_TEXT_ID, LAST_TEXT_ID, (length,), generator=generator).tolist()
    _add_ids(sample, ids)


def _add_ids(sample: TinySample, ids: list[int]) -> None:
    sample.ids += ids
    sample.types += [0] * len(ids)
    sample.position_pieces.append(len(ids))


def _add_vision(
    sample: TinySample, config: PolicyConfig, piece: tuple, generator: torch.Generator
) -> None:
    kind, *size = piece
    grid = (1, *size) if kind == "image" else tuple(size)
    t, h, w = grid
    values = config.vision.patch_values
    sample.patches.append(torch.randn(t * h * w, values, generator=generator))
    sample.grids.append(grid)
    sample.kinds.append(kind)
    for _ in range(t):
        if kind == "video":
            _add_text(sample, STAMP_TOKENS, generator)
        _add_ids(sample, [config.vision_start])
        _add_span(sample, config, kind, (h // 2, w // 2))
        _add_ids(sample, [config.vision_end])


def _add_span(sample: TinySample, config: PolicyConfig, kind: str, merged: tuple[int, int]) -> None:
    num_tokens = merged[0] * merged[1]
    start = len(sample.ids)
    sample.ids += [config.image_pad if kind == "image" else config.video_pad] * num_tokens
    sample.types += [1 if kind == "image" else 2] * num_tokens
    sample.position_pieces.append((1, *merged))
    sample.visual_index += range(start, start + num_tokens)
