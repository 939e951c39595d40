"""The micro model: its configuration, fresh weights for training, its committed file.

The committed file has the fp16 weights of `sam2_micro.safetensors` with their configuration; the
graphs are those of every other SAM 2 here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pixelis_fast.tools_trt.micro.prompts import MASK_LOGIT
from pixelis_fast.tools_trt.models.sam2_config import config_for
from pixelis_fast.tools_trt.models.sam2_decoder import Attention
from pixelis_fast.tools_trt.models.sam2_memory import RotaryAttention
from pixelis_fast.tools_trt.models.sam2_model import Sam2Graphs
from pixelis_fast.tools_trt.models.sam2_weights import load_graphs, save_graphs

MICRO = replace(
    config_for("micro", side=256),
    width=24,
    blocks=(1, 2, 4, 1),
    channels=96,
    mlp_ratio=2,
    score_width=96,
)
WEIGHTS = Path(__file__).parent / "sam2_micro.safetensors"
OWN_PLACE = 6.0
"""Score with which a fresh attention sees its own place; far places have about 0."""
TRAINING_LOG = Path(__file__).parent / "sam2_micro.json"
STORED = torch.float16
"""Eleven significant bits: a mask's border moves less than under bfloat16's eight."""


def fresh_graphs(*, side: int, seed: int) -> Sam2Graphs:
    """Graphs to be trained, in which every attention starts out looking at its own place."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        graphs = Sam2Graphs(replace(MICRO, side=side))
        for part in graphs.modules():
            if isinstance(part, Attention):
                tie(part)
            elif isinstance(part, RotaryAttention):
                lean(part)
    assert graphs.memory is not None
    shrink = graphs.memory.mask_to_prompt
    # A drawn mask becomes the prompt that training knows, by an average that is not trained.
    torch.nn.init.constant_(shrink.weight, 2 * MASK_LOGIT / shrink.weight.numel())
    assert shrink.bias is not None
    torch.nn.init.constant_(shrink.bias, -MASK_LOGIT)
    shrink.requires_grad_(False)
    return graphs


@torch.no_grad()
def tie(attention: Attention) -> None:
    """Queries and keys start as the same projection: equal places attract each other.

    With independent projections thousands of steps pass before a prompt finds its place.
    """
    width, channels = attention.q.weight.shape
    shared = torch.empty(width, channels)
    torch.nn.init.orthogonal_(shared)
    # A position code has half as many units of squared length as channels.
    head_share = channels / 2 * (width / channels) / attention.heads
    shared *= (OWN_PLACE / head_share) ** 0.5
    attention.q.weight.copy_(shared)
    attention.k.weight.copy_(shared)
    attention.q.bias.zero_()
    attention.k.bias.zero_()
    torch.nn.init.orthogonal_(attention.v.weight)
    torch.nn.init.orthogonal_(attention.out.weight)


@torch.no_grad()
def lean(attention: RotaryAttention) -> None:
    """Equal biases, rotated, attract near places, whatever the tokens hold."""
    value = (OWN_PLACE / attention.q.bias.numel()) ** 0.5
    attention.q.bias.fill_(value)
    attention.k.bias.fill_(value)


def at_side(weights: Mapping[str, Tensor], *, side: int) -> Sam2Graphs:
    """The same weights at another side: no weight changes its shape with it."""
    graphs = fresh_graphs(side=side, seed=0)
    graphs.load_state_dict(weights)
    return graphs


def save_micro(weights: Mapping[str, Tensor], path: Path) -> None:
    graphs = Sam2Graphs(MICRO)
    graphs.load_state_dict(weights)
    save_graphs(graphs.to(STORED), path)


def load_micro(path: Path = WEIGHTS, *, side: int = MICRO.side) -> Sam2Graphs:
    """Ready for inference, in fp32."""
    return load_graphs(path, side=side)
