"""SAM 2's image encoder: a Hiera backbone and the feature pyramid behind it.

Tokens keep the order of their attention windows from block to block as long as window and grid
agree, so most blocks move no memory. Blocks whose window does not divide the grid work in raster
order and pad with zeros after the norm, as the original does; attention over the whole picture
takes tokens in any order. The pyramid's 1x1 convolutions are folded into one projection per level.

Shapes: B = batch, S = side, T = tokens of a grid, C = channels, N = windows, W = tokens of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from pixelis_fast.tools_trt.models.sam2_config import (
    Sam2Config,
    stage_ends,
    stage_of,
    window_of,
)
from pixelis_fast.tools_trt.models.sam2_layers import (
    DerivedTable,
    Mlp,
    attend,
    scale_queries,
)

NORM_EPSILON = 1e-6


@dataclass(frozen=True)
class BlockPlan:
    """Where one block works; sides in tokens."""

    width_in: int
    width: int
    heads: int
    grid: int
    """Side of the grid that it reads."""
    window: int
    """0 attends everywhere."""
    pools: bool
    """Its output's grid has half the side."""
    order: int
    """Side of the windows that its input's tokens are ordered by; `grid` is raster order."""

    @property
    def is_padded(self) -> bool:
        return self.window > 0 and self.grid % self.window > 0

    @property
    def order_out(self) -> int:
        return self.order // 2 if self.pools else self.order


def block_plans(config: Sam2Config) -> tuple[BlockPlan, ...]:
    """Every block's plan; an order is kept where the block does not ask for another."""
    plans: list[BlockPlan] = []
    for block in range(sum(config.blocks)):
        stage, window = stage_of(config, block), window_of(config, block)
        pools = block in config.first_blocks[1:]
        before = stage - pools
        grid = config.grids[before]
        divides = window > 0 and grid % window == 0
        kept = plans[-1].order_out if plans else config.windows[0]
        order = window if divides else kept if window == 0 else grid
        heads = config.heads * 2**stage
        plans.append(
            BlockPlan(
                config.widths[before], config.widths[stage], heads, grid, window, pools, order
            )
        )
    return tuple(plans)


class ImageEncoder(nn.Module):
    """Normalised pixels (B, 3, S, S) -> features at strides 4, 8 and 16.

    (B, channels/8, S/4, S/4), (B, channels/4, S/8, S/8), (B, channels, S/16, S/16): what the mask
    decoder reads, in fp32 whatever the weights' type; no memory embedding is added.
    """

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        self.config = config
        plans = block_plans(config)
        self.patches = nn.Conv2d(3, config.width, 7, stride=4, padding=3)
        self.positions = Positions(config)
        self.blocks = nn.ModuleList(HieraBlock(plan, config.mlp_ratio) for plan in plans)
        self.ends = stage_ends(config)
        shares = (config.channels // 8, config.channels // 4, config.channels, config.channels)
        self.levels = nn.ModuleList(
            nn.Linear(width, share) for width, share in zip(config.widths, shares, strict=True)
        )

    def forward(self, pixels_B3SS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        patches_BCTT = self.patches(pixels_B3SS.to(self.patches.weight.dtype))
        order = self.config.windows[0]
        x_BTC = to_windows(patches_BCTT.permute(0, 2, 3, 1), order).flatten(1, 2)
        x_BTC = x_BTC + self.positions()
        levels: list[Tensor] = []
        for number, block in enumerate(self.blocks):
            plan = cast(HieraBlock, block).plan
            x_BTC = reorder(x_BTC, plan.grid, order, plan.order)
            x_BTC = block(x_BTC)
            order = plan.order_out
            if number in self.ends:
                levels.append(self._level(x_BTC, len(levels), order))
        fine, middle, coarse, top = levels
        return _maps(fine), _maps(middle), _maps(coarse + _doubled(top))

    def _level(self, x_BTC: Tensor, stage: int, order: int) -> Tensor:
        """One level of the pyramid, (B, grid, grid, C)."""
        grid = self.config.grids[stage]
        projected = reorder(self.levels[stage](x_BTC), grid, order, grid)
        return projected.unflatten(1, (grid, grid))


def _maps(x_BHWC: Tensor) -> Tensor:
    return x_BHWC.permute(0, 3, 1, 2).float()


def _doubled(x_BHWC: Tensor) -> Tensor:
    """Every pixel four times."""
    _, height, width, _ = x_BHWC.shape
    tall = x_BHWC[:, :, None, :, None].expand(-1, -1, 2, -1, 2, -1)
    return tall.reshape(-1, 2 * height, 2 * width, x_BHWC.shape[-1])


class Positions(DerivedTable):
    """Position embeddings: an enlarged background plus a tile for every window, in window order."""

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        self.grid, self.order = config.grids[0], config.windows[0]
        shape = (1, config.width)
        self.background = nn.Parameter(torch.zeros(*shape, *(config.position_side,) * 2))
        self.window = nn.Parameter(torch.zeros(*shape, *(self.order,) * 2))

    def compute(self) -> Tensor:
        square = (self.grid, self.grid)
        # Half precision would round the table before it is even added.
        background = functional.interpolate(self.background.float(), square, mode="bicubic")
        tiles = self.window.float().tile(self.grid // self.order, self.grid // self.order)
        summed_1TTC = (background + tiles).permute(0, 2, 3, 1)
        return to_windows(summed_1TTC, self.order).flatten(1, 2).to(self.window.dtype)


class HieraBlock(nn.Module):
    """Attention in windows (or everywhere), then an MLP; may halve the grid by pooling queries."""

    def __init__(self, plan: BlockPlan, mlp_ratio: int) -> None:
        super().__init__()
        self.plan = plan
        self.norm_attention = nn.LayerNorm(plan.width_in, eps=NORM_EPSILON)
        self.qkv = nn.Linear(plan.width_in, 3 * plan.width)
        self.out = nn.Linear(plan.width, plan.width)
        self.shortcut = nn.Linear(plan.width_in, plan.width) if plan.pools else None
        self.norm_mlp = nn.LayerNorm(plan.width, eps=NORM_EPSILON)
        self.mlp = Mlp(plan.width, mlp_ratio * plan.width, plan.width, activation=nn.GELU)
        scale_queries(self.qkv, rows=plan.width, head_width=plan.width // plan.heads)

    def forward(self, x_BTC: Tensor) -> Tensor:
        normed = self.norm_attention(x_BTC)
        skip = x_BTC if self.shortcut is None else pooled(self.shortcut(normed), self.plan.order)
        attended = self._padded(normed) if self.plan.is_padded else self._divided(normed)
        x_BTC = skip + attended
        return x_BTC + self.mlp(self.norm_mlp(x_BTC))

    def _divided(self, x_BTC: Tensor) -> Tensor:
        """The tokens' order already is that of the windows."""
        plan = self.plan
        side = plan.window or plan.grid
        tokens = (plan.grid // (2 if plan.pools else 1)) ** 2
        windows_NWC = x_BTC.reshape(-1, side * side, plan.width_in)
        return self._attend(windows_NWC, side).reshape(-1, tokens, plan.width)

    def _padded(self, x_BTC: Tensor) -> Tensor:
        """Tokens in raster order; the grid is filled up with zeros to whole windows."""
        plan, share = self.plan, 2 if self.plan.pools else 1
        missing = -plan.grid % plan.window
        filled = functional.pad(
            x_BTC.unflatten(1, (plan.grid, plan.grid)), (0, 0, 0, missing, 0, missing)
        )
        windows_NWC = to_windows(filled, plan.window).flatten(0, 1)
        attended = self._attend(windows_NWC, plan.window)
        kept, whole = plan.grid // share, (plan.grid + missing) // share
        count = (whole * share // plan.window) ** 2
        grid = from_windows(attended.unflatten(0, (-1, count)), whole)
        return grid[:, :kept, :kept].flatten(1, 2)

    def _attend(self, x_NWC: Tensor, side: int) -> Tensor:
        # Three slices: from a (3, heads, width) view OpenVINO computes a single head wrongly.
        q, k, v = self.qkv(x_NWC).chunk(3, dim=2)
        q = pooled(q, side) if self.plan.pools else q
        split = (part.unflatten(2, (self.plan.heads, -1)).transpose(1, 2) for part in (q, k, v))
        return self.out(attend(*split).transpose(1, 2).flatten(2))


def to_windows(x_BHWC: Tensor, side: int) -> Tensor:
    """(B, G, G, C) -> (B, windows, side*side, C)."""
    _, grid, _, channels = x_BHWC.shape
    count = grid // side
    split = x_BHWC.reshape(-1, count, side, count, side, channels)
    return split.permute(0, 1, 3, 2, 4, 5).reshape(-1, count * count, side * side, channels)


def from_windows(x_BNWC: Tensor, grid: int) -> Tensor:
    """(B, windows, side*side, C) -> (B, G, G, C)."""
    _, windows, tokens, channels = x_BNWC.shape
    count, side = int(windows**0.5), int(tokens**0.5)
    split = x_BNWC.reshape(-1, count, count, side, side, channels)
    return split.permute(0, 1, 3, 2, 4, 5).reshape(-1, grid, grid, channels)


def reorder(x_BTC: Tensor, grid: int, before: int, after: int) -> Tensor:
    """Tokens ordered by windows of one side -> by windows of another; `grid` is raster order."""
    if before == after:
        return x_BTC
    raster = x_BTC.unflatten(1, (grid, grid))
    if before != grid:
        raster = from_windows(x_BTC.unflatten(1, ((grid // before) ** 2, before**2)), grid)
    return (raster if after == grid else to_windows(raster, after)).flatten(1, 2)


def pooled(x_BTC: Tensor, order: int) -> Tensor:
    """Maximum of every 2x2 pixels; tokens ordered by windows of `order` -> of half the side."""
    _, tokens, channels = x_BTC.shape
    rows = x_BTC.reshape(-1, tokens // (2 * order), 2, order, channels)
    highest = torch.maximum(rows[:, :, 0], rows[:, :, 1])
    pairs = highest.reshape(-1, tokens // 4, 2, channels)
    return torch.maximum(pairs[:, :, 0], pairs[:, :, 1])
