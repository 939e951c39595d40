"""The vision tower: flattened patches in, tokens for the decoder out.

Images and video frames of any sizes go through in one packed pass: linears over all patches,
attention inside each image or frame pair. Four neighbouring patches merge into one token; DeepStack
mergers do the same for chosen blocks (arXiv 2406.04334). Knows no text.

Shapes: P = patches of all grids, K = values of a patch, D = tower's hidden size, H = heads,
F = head_dim, M = merged tokens, T = the decoder's hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, gelu

from pixelis_fast.policy.attention import Packing, segment_attention
from pixelis_fast.policy.batch import VisionFeatures
from pixelis_fast.policy.config import VisionConfig
from pixelis_fast.policy.positions import Grid
from pixelis_fast.policy.rope import Rotation, rotate, vision_rotation

NORM_EPS = 1e-6


class VisionBlock(nn.Module):
    """Pre-norm transformer block, attention inside segments."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.num_heads, self.head_dim = config.num_heads, config.head_dim
        self.norm1 = nn.LayerNorm(size, NORM_EPS)
        self.qkv = nn.Linear(size, 3 * size)
        self.proj = nn.Linear(size, size)
        self.norm2 = nn.LayerNorm(size, NORM_EPS)
        self.fc1 = nn.Linear(size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, size)

    def forward(self, x_PD: Tensor, *, rotation: Rotation, packing: Packing) -> Tensor:
        x_PD = x_PD + self._attend(self.norm1(x_PD), rotation=rotation, packing=packing)
        return x_PD + self.fc2(gelu(self.fc1(self.norm2(x_PD)), approximate="tanh"))

    def _attend(self, x_PD: Tensor, *, rotation: Rotation, packing: Packing) -> Tensor:
        qkv = self.qkv(x_PD).view(x_PD.shape[0], 3 * self.num_heads, self.head_dim)
        qk, values_PHF = qkv.split((2 * self.num_heads, self.num_heads), dim=1)
        queries_PHF, keys_PHF = rotate(qk, rotation).chunk(2, dim=1)
        mixed = segment_attention(queries_PHF, keys_PHF, values_PHF, packing=packing)
        return self.proj(mixed.reshape(x_PD.shape))


class Merger(nn.Module):
    """merge_size^2 neighbouring patches -> one token of the decoder's width."""

    def __init__(self, config: VisionConfig, *, norm_merged: bool) -> None:
        super().__init__()
        self.norm_merged = norm_merged
        """DeepStack mergers normalise the merged vector, the last merger each patch."""
        self.merged_size = config.merged_size
        self.norm = nn.LayerNorm(self.merged_size if norm_merged else config.hidden_size, NORM_EPS)
        self.fc1 = nn.Linear(self.merged_size, self.merged_size)
        self.fc2 = nn.Linear(self.merged_size, config.out_hidden_size)

    def forward(self, x_PD: Tensor) -> Tensor:
        if self.norm_merged:
            merged = self.norm(x_PD.view(-1, self.merged_size))
        else:
            merged = self.norm(x_PD).view(-1, self.merged_size)
        return self.fc2(gelu(self.fc1(merged)))


class VisionTower(nn.Module):
    """Patches of several grids -> their tokens and DeepStack layers."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = nn.Linear(config.patch_values, config.hidden_size)
        self.pos_embed = nn.Parameter(torch.empty(config.num_positions, config.hidden_size))
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))
        self.merger = Merger(config, norm_merged=False)
        self.deepstack_mergers = nn.ModuleList(
            Merger(config, norm_merged=True) for _ in config.deepstack_layers
        )

    def forward(self, patches_PK: Tensor, grids: Sequence[Grid]) -> VisionFeatures:
        check_grids(patches_PK, grids, self.config)
        weight = self.patch_embed.weight
        layout = grid_layout(grids, self.config, device=weight.device, dtype=weight.dtype)
        packing = Packing.of(layout.lengths, weight)
        x_PD = self.patch_embed(patches_PK.to(weight)) + self._positions(layout)
        deepstack = {}
        for index, block in enumerate(self.blocks):
            x_PD = block(x_PD, rotation=layout.rotation, packing=packing)
            if index in self.config.deepstack_layers:
                slot = self.config.deepstack_layers.index(index)
                deepstack[slot] = self.deepstack_mergers[slot](x_PD)
        layers = tuple(deepstack[slot] for slot in range(len(deepstack)))
        return VisionFeatures(self.merger(x_PD), layers)

    def _positions(self, layout: GridLayout) -> Tensor:
        corners = embedding(layout.corner_index_P4, self.pos_embed)
        summed_PD = (corners * layout.corner_weight_P4.unsqueeze(-1)).sum(1)
        return summed_PD.to(self.pos_embed.dtype)


@dataclass(frozen=True)
class GridLayout:
    """Where each patch stands, from the grids alone."""

    rotation: Rotation
    corner_index_P4: Tensor
    """Four neighbours in the learned position grid."""
    corner_weight_P4: Tensor
    """Their bilinear weights, fp32."""
    lengths: list[int]
    """Patches of each segment: an image, or one frame pair of a video."""


def check_grids(patches_PK: Tensor, grids: Sequence[Grid], config: VisionConfig) -> None:
    """Raises unless the patches are those of the grids."""
    merge = config.merge_size
    for t, h, w in grids:
        if t < 1 or h < 1 or w < 1 or h % merge or w % merge:
            raise ValueError(f"grid: expected h and w in steps of {merge}, got {(t, h, w)}")
    expected = (sum(t * h * w for t, h, w in grids), config.patch_values)
    if tuple(patches_PK.shape) != expected:
        raise ValueError(f"patches_PK: expected {expected}, got {tuple(patches_PK.shape)}")


def grid_layout(
    grids: Sequence[Grid], config: VisionConfig, *, device: torch.device, dtype: torch.dtype
) -> GridLayout:
    """Positions of all patches in the tower's order (merge blocks, then inside the block)."""
    places = [_rows_columns(grid, config.merge_size, device) for grid in grids]
    corners = [
        _corners(rows, columns, grid, config.grid_side)
        for (rows, columns), grid in zip(places, grids, strict=True)
    ]
    repeats = [grid[0] for grid in grids]
    rows_P = torch.cat([rows.repeat(t) for (rows, _), t in zip(places, repeats, strict=True)])
    columns_P = torch.cat([cols.repeat(t) for (_, cols), t in zip(places, repeats, strict=True)])
    return GridLayout(
        rotation=vision_rotation(
            rows_P, columns_P, head_dim=config.head_dim, theta=config.rope_theta, dtype=dtype
        ),
        corner_index_P4=torch.cat(
            [index.repeat(t, 1) for (index, _), t in zip(corners, repeats, strict=True)]
        ),
        corner_weight_P4=torch.cat(
            [weight.repeat(t, 1) for (_, weight), t in zip(corners, repeats, strict=True)]
        ),
        lengths=[h * w for t, h, w in grids for _ in range(t)],
    )


def _rows_columns(grid: Grid, merge: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of each patch of one frame."""
    _, h, w = grid
    index = torch.arange(h * w, device=device).view(h // merge, merge, w // merge, merge)
    order = index.transpose(1, 2).flatten()
    return order // w, order % w


def _corners(rows: Tensor, columns: Tensor, grid: Grid, side: int) -> tuple[Tensor, Tensor]:
    """Bilinear resampling of the side x side position grid onto h x w, corners aligned."""
    (top, bottom), (up, down) = _axis(rows, grid[1], side)
    (left, right), (near, far) = _axis(columns, grid[2], side)
    index = (top * side + left, top * side + right, bottom * side + left, bottom * side + right)
    weight = (up * near, up * far, down * near, down * far)
    return torch.stack(index, dim=1), torch.stack(weight, dim=1)


def _axis(
    places: Tensor, size: int, side: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    source = places.float() * (side - 1) / max(size - 1, 1)
    low = source.floor()
    share = source - low
    low_index = low.long()
    return (low_index, (low_index + 1).clamp(max=side - 1)), (1 - share, share)
