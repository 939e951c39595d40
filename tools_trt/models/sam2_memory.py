"""SAM 2's memory: a frame and its mask -> memory tokens, and attention from a frame to a bank.

The bank has a fixed number of slots; what is empty is hidden by a bias on the keys, which is exact.
Rotary embeddings are real-valued with halves split (the weights' rows are ordered for that), and
pointer tokens get the rotation by zero. Values are the raw tokens: since weights of a softmax sum
to one, projecting what was seen equals projecting every key, at a fraction of the work. Which
frames enter the bank, and where in time, is the caller's business.

Shapes: B = objects, g = side of the coarse grid, L = g*g, C = channels, K = memory channels,
M = bank: frames*L + pointer tokens, D = width of a rotation.
"""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from pixelis_fast.tools_trt.models.sam2_config import Sam2Config
from pixelis_fast.tools_trt.models.sam2_layers import (
    attend,
    conv_norm_gelu,
    scale_queries,
    to_maps,
    to_tokens,
)

MASK_SCALE, MASK_BIAS = 20.0, -10.0
"""A mask's probability goes into the memory as if it were a confident logit."""
ROPE_THETA = 10_000.0


class MemoryEncoder(nn.Module):
    """A frame's raw coarse features and its mask logits at the full side -> memory (B, K, g, g).

    A mask that was clicked or drawn is binarised, others keep their doubt (sigmoid). In 2.1 an
    object that is out of sight leaves its own embedding. fp32 whatever the weights' type.
    """

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        channels, self.side = config.channels, config.coarse_side
        widths = (1, *config.mask_widths)
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for width in config.mask_widths)
        self.mask_out = nn.Linear(config.mask_widths[-1], channels)
        self.picture = nn.Linear(channels, channels)
        self.fuser = nn.ModuleList(FuserLayer(config) for _ in range(config.fuser_layers))
        self.out = nn.Linear(channels, config.memory_channels)
        self.out_of_sight = (
            nn.Parameter(0.02 * torch.randn(config.memory_channels))
            if config.version == "2.1"
            else None
        )

    def forward(
        self,
        coarse_BCgg: Tensor,
        mask_logits_B1SS: Tensor,
        is_clicked_B1: Tensor,
        object_score_B1: Tensor,
    ) -> Tensor:
        dtype = self.out.weight.dtype
        mask_BCgg = self._mask(mask_logits_B1SS.float(), is_clicked_B1.float()).to(dtype)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            mask_BCgg = conv_norm_gelu(mask_BCgg, cast(nn.Conv2d, conv), cast(nn.LayerNorm, norm))
        x_BLC = self.picture(to_tokens(coarse_BCgg.to(dtype))) + self.mask_out(to_tokens(mask_BCgg))
        for layer in self.fuser:
            x_BLC = layer(x_BLC)
        memory_BLK = self.out(x_BLC)
        if self.out_of_sight is not None:
            is_hidden_B1 = (object_score_B1 <= 0).to(dtype)
            memory_BLK = memory_BLK + is_hidden_B1[..., None] * self.out_of_sight
        return to_maps(memory_BLK, self.side).float()

    @staticmethod
    def _mask(logits_B1SS: Tensor, is_clicked_B1: Tensor) -> Tensor:
        clicked = is_clicked_B1[..., None, None]
        inside = (logits_B1SS > 0).float()
        return (clicked * inside + (1 - clicked) * logits_B1SS.sigmoid()) * MASK_SCALE + MASK_BIAS


class FuserLayer(nn.Module):
    """A depthwise convolution, then an MLP per pixel, both beside a residual."""

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        channels, self.side = config.channels, config.coarse_side
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.grow = nn.Linear(channels, config.fuser_mlp)
        self.shrink = nn.Linear(config.fuser_mlp, channels)
        # The original's scale per channel is part of the last layer; it starts small there too.
        with torch.no_grad():
            self.shrink.weight *= 0.1

    def forward(self, x_BLC: Tensor) -> Tensor:
        mixed_BLC = to_tokens(self.depthwise(to_maps(x_BLC, self.side)))
        return x_BLC + self.shrink(functional.gelu(self.grow(self.norm(mixed_BLC))))


class MemoryAttention(nn.Module):
    """A frame's tokens -> the same with what the bank knows of each object, (B, L, C); fp32.

    current_1LC and its positions may have batch 1 and then serve every object. key_bias_B11M is 0
    for a slot in use and -1e4 for an empty one. The bank's first frames*L slots are frames in
    raster order, the rest are pointer tokens; an instance serves one number of each.
    """

    def __init__(
        self, config: Sam2Config, *, frames: int | None = None, pointer_tokens: int | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.frames = config.memory_frames if frames is None else frames
        self.pointer_tokens = config.pointer_tokens if pointer_tokens is None else pointer_tokens
        self.layers = nn.ModuleList(MemoryLayer(config) for _ in range(config.memory_layers))
        self.norm = nn.LayerNorm(config.channels)
        table = rotation_table(config.coarse_side, config.channels)
        self.register_buffer("cosines", table.cos(), persistent=False)
        self.register_buffer("sines", table.sin(), persistent=False)
        self.cosines: Tensor
        self.sines: Tensor

    def for_bank(self, frames: int, *, pointer_tokens: int) -> MemoryAttention:
        """The same weights for a bank of another size."""
        if frames < 1 or pointer_tokens < 0:
            raise ValueError(
                f"memory bank: expected a frame at least, got {frames} frames and "
                f"{pointer_tokens} pointer tokens"
            )
        other = copy.copy(self)
        other.frames, other.pointer_tokens = frames, pointer_tokens
        return other

    def forward(
        self,
        current_1LC: Tensor,
        current_position_1LC: Tensor,
        memory_BMK: Tensor,
        memory_position_BMK: Tensor,
        key_bias_B11M: Tensor,
    ) -> Tensor:
        dtype = self.norm.weight.dtype
        memory_BMK, bias = memory_BMK.to(dtype), key_bias_B11M.to(dtype)
        keys_BMK = memory_BMK + memory_position_BMK.to(dtype)
        rotation = (self.cosines.to(dtype), self.sines.to(dtype))
        # Batch 1 until the first layer meets the bank: until then all objects see the same.
        x_BLC = (current_1LC + 0.1 * current_position_1LC).to(dtype)
        for layer in self.layers:
            x_BLC = layer(x_BLC, keys_BMK, memory_BMK, bias, rotation, self._bank(*rotation))
        return self.norm(x_BLC).float()

    def _bank(self, cosines_LD: Tensor, sines_LD: Tensor) -> tuple[Tensor, Tensor]:
        """The rotation of every key: the grid's for each frame, none for pointers."""
        none = (0, 0, 0, self.pointer_tokens)
        cosines = functional.pad(cosines_LD.repeat(self.frames, 1), none, value=1.0)
        return cosines, functional.pad(sines_LD.repeat(self.frames, 1), none)


def rotation_table(side: int, channels: int) -> Tensor:
    """Angles (L, channels/2): the first half of the frequencies turn with x, the others with y."""
    count = channels // 4
    steps = torch.arange(count).float() / count
    frequencies = ROPE_THETA**-steps
    place = torch.arange(side).float()
    x_LD = place.repeat(side)[:, None] * frequencies
    y_LD = place.repeat_interleave(side)[:, None] * frequencies
    return torch.cat((x_LD, y_LD), dim=1)


Rotation = tuple[Tensor, Tensor]


def rotate(x_BTC: Tensor, rotation: Rotation) -> Tensor:
    """Each pair (channel, channel + C/2) turned by its angle."""
    cosines, sines = rotation
    first, second = x_BTC.chunk(2, dim=-1)
    turned = (first * cosines - second * sines, second * cosines + first * sines)
    return torch.cat(turned, dim=-1)


class MemoryLayer(nn.Module):
    """The frame attends to itself, then to the bank, then an MLP."""

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        channels = config.channels
        self.norm1 = nn.LayerNorm(channels)
        self.to_itself = RotaryAttention(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.to_bank = RotaryAttention(channels, config.memory_channels)
        self.norm3 = nn.LayerNorm(channels)
        self.grow = nn.Linear(channels, config.memory_mlp)
        self.shrink = nn.Linear(config.memory_mlp, channels)

    def forward(
        self,
        x_BLC: Tensor,
        keys_BMK: Tensor,
        values_BMK: Tensor,
        bias: Tensor,
        frame: Rotation,
        bank: Rotation,
    ) -> Tensor:
        normed = self.norm1(x_BLC)
        x_BLC = x_BLC + self.to_itself(normed, normed, normed, None, frame, frame)
        normed = self.norm2(x_BLC)
        x_BLC = x_BLC + self.to_bank(normed, keys_BMK, values_BMK, bias, frame, bank)
        return x_BLC + self.shrink(functional.relu(self.grow(self.norm3(x_BLC))))


class RotaryAttention(nn.Module):
    """One head of attention whose values are the raw tokens; `out` projects what was seen."""

    def __init__(self, channels: int, key_channels: int) -> None:
        super().__init__()
        self.q = nn.Linear(channels, channels)
        self.k = nn.Linear(key_channels, channels)
        self.out = nn.Linear(key_channels, channels)
        scale_queries(self.q, rows=channels, head_width=channels)

    def forward(
        self,
        q_BTC: Tensor,
        k_BTC: Tensor,
        v_BTC: Tensor,
        bias: Tensor | None,
        q_rotation: Rotation,
        k_rotation: Rotation,
    ) -> Tensor:
        k = rotate(self.k(k_BTC), k_rotation)
        q = rotate(self.q(q_BTC), q_rotation).expand(k.shape[0], -1, -1)
        seen = attend(q[:, None], k[:, None], v_BTC[:, None], bias)
        return self.out(seen[:, 0])


def sine_positions(side: int, channels: int) -> Tensor:
    """The picture's fixed position code as (1, L, channels): y in the first half, then x."""
    half = channels // 2
    steps = 2 * (torch.arange(half) // 2) / half
    place = torch.arange(1, side + 1).float() / (side + 1e-6) * 2 * math.pi
    angles = place[:, None] / 10_000**steps
    wave = torch.stack((angles[:, 0::2].sin(), angles[:, 1::2].cos()), dim=2).flatten(1)
    y = wave[:, None].expand(side, side, half)
    x = wave[None].expand(side, side, half)
    return torch.cat((y, x), dim=2).flatten(0, 1)[None]


def time_code(steps: Tensor, channels: int) -> Tensor:
    """(N,) -> (N, channels): sines, then cosines, of a place in time."""
    half = channels // 2
    periods = 10_000 ** (2 * (torch.arange(half, device=steps.device) // 2) / half)
    angles = steps[:, None].float() / periods
    return torch.cat((angles.sin(), angles.cos()), dim=1)
