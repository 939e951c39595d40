"""SAM 2's prompts as tokens and maps: points, box corners and a mask at a quarter of the side.

Labels are embedded by a one-hot product and the mask is blended in by its flag, so that one static
graph serves every prompt. Coordinates stay in fp32 whatever the weights' type.

Shapes: B = prompts, P = point slots, C = channels, h, w = mask prompt, L = tokens of the coarse
grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pixelis_fast.tools_trt.models.sam2_config import Sam2Config
from pixelis_fast.tools_trt.models.sam2_layers import DerivedTable, conv_norm_gelu, to_tokens

EMPTY, NO_POINT, NEGATIVE, POSITIVE, BOX_START, BOX_END = -2.0, -1.0, 0.0, 1.0, 2.0, 3.0
"""Labels of a point slot. NO_POINT is a token of its own that the original appends to points;
EMPTY is a slot that nothing may attend to, and changes no output."""
HIDDEN = -1e4
"""Added to the scores of keys that must not be seen; finite in half precision."""


class Frequencies(nn.Module):
    """Sines and cosines of random directions: where a point lies in the unit square."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("directions", torch.randn(2, channels // 2))
        self.directions: Tensor

    def forward(self, unit_xy: Tensor) -> Tensor:
        """(…, 2) in 0..1 -> (…, C), fp32."""
        x, y = (2 * unit_xy.float() - 1).unsqueeze(-1).unbind(-2)
        # Written out: a matrix product may run in half precision, where points move by pixels.
        angles = 2 * math.pi * (x * self.directions[0] + y * self.directions[1])
        return torch.cat((angles.sin(), angles.cos()), dim=-1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Frequencies:
        """Moves with the module, but is never rounded with it."""
        exact = self.directions
        super()._apply(fn, recurse)
        self.directions = exact.to(self.directions.device)
        return self


class GridPositions(DerivedTable):
    """The frequencies at the centre of every coarse pixel, (1, L, C)."""

    def __init__(self, frequencies: Frequencies, side: int) -> None:
        super().__init__()
        # In a tuple: they belong to the prompts, which register them.
        self._frequencies, self._side = (frequencies,), side

    def compute(self) -> Tensor:
        frequencies = self._frequencies[0]
        device = frequencies.directions.device
        centres = (torch.arange(self._side, device=device) + 0.5) / self._side
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        return frequencies(torch.stack((x, y), dim=-1)).flatten(0, 1)[None]


class PromptEmbedding(nn.Module):
    """Prompts -> tokens to attend with, and a map to add to the picture's."""

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        width, self.side = config.mask_prompt_width, config.side
        self.frequencies = Frequencies(config.channels)
        self.labels = nn.Parameter(torch.randn(5, config.channels))
        """By label: NO_POINT, NEGATIVE, POSITIVE, BOX_START, BOX_END."""
        self.no_mask = nn.Parameter(torch.randn(config.channels))
        self.conv1 = nn.Conv2d(1, width // 4, 2, stride=2)
        self.norm1 = nn.LayerNorm(width // 4, eps=1e-6)
        self.conv2 = nn.Conv2d(width // 4, width, 2, stride=2)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.out = nn.Linear(width, config.channels)
        codes = torch.tensor((NO_POINT, NEGATIVE, POSITIVE, BOX_START, BOX_END))
        self.register_buffer("codes", codes, persistent=False)
        self.codes: Tensor

    def points(self, points_BP2: Tensor, labels_BP: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, P, C) and what to add to the scores of each as a key, (B, P)."""
        labels_BP1 = labels_BP[..., None].float()
        one_hot_BP5 = (labels_BP1 == self.codes).to(self.labels.dtype)
        positions_BPC = self.frequencies((points_BP2.float() + 0.5) / self.side)
        is_point_BP1 = (labels_BP1 >= NEGATIVE).to(self.labels.dtype)
        tokens_BPC = one_hot_BP5 @ self.labels + positions_BPC.to(self.labels.dtype) * is_point_BP1
        return tokens_BPC, HIDDEN * (labels_BP == EMPTY).to(self.labels.dtype)

    def mask(self, mask_B1hw: Tensor, has_mask_B1: Tensor) -> Tensor:
        """The mask as (B, L, C) where a prompt has one; the embedding of none elsewhere."""
        dtype = self.labels.dtype
        half = conv_norm_gelu(mask_B1hw.to(dtype), self.conv1, self.norm1)
        quarter = conv_norm_gelu(half, self.conv2, self.norm2)
        has_mask_B11 = has_mask_B1[..., None].to(dtype)
        return has_mask_B11 * self.out(to_tokens(quarter)) + (1 - has_mask_B11) * self.no_mask


def empty_mask(config: Sam2Config, prompts: int, *, device: torch.device) -> tuple[Tensor, Tensor]:
    """(mask_B1hw, has_mask_B1) for prompts without a mask."""
    side = config.mask_side
    mask_B1hw = torch.zeros(prompts, 1, side, side, device=device)
    return mask_B1hw, torch.zeros(prompts, 1, device=device)
