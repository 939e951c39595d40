"""SAM 2's mask decoder: a picture's features and prompts -> four masks with their scores.

Always all four masks: the choice among them is made outside the graph (`sam2_choice.py`), and so
is every change of size. Tokens stay channels-last through the upscaling, whose transposed
convolutions do not overlap and are linear layers.

Shapes: B = prompts, T = tokens (objectness, score, four masks, then the prompt's), L = tokens of
the coarse grid (side g), C = channels.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from pixelis_fast.tools_trt.models.sam2_config import NUM_MASKS, Sam2Config
from pixelis_fast.tools_trt.models.sam2_layers import Mlp, attend, scale_queries, to_tokens
from pixelis_fast.tools_trt.models.sam2_prompts import GridPositions, PromptEmbedding

OWN_TOKENS = 2 + NUM_MASKS


class PromptDecoder(nn.Module):
    """Masks (B, 4, h, w), IoUs (B, 4), object pointers (B, 4, C), object score (B, 1); fp32.

    The features may have batch 1 and then serve every prompt. Coarse features come with the
    memory, or the embedding of none, already added; the pointers are those of a visible object.
    """

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        channels, self.side = config.channels, config.coarse_side
        self.prompts = PromptEmbedding(config)
        self.positions = GridPositions(self.prompts.frequencies, config.coarse_side)
        self.tokens = nn.Parameter(torch.randn(OWN_TOKENS, channels))
        self.transformer = TwoWayTransformer(config)
        self.upscale1 = nn.Linear(channels, 4 * (channels // 4))
        self.upscale_norm = nn.LayerNorm(channels // 4, eps=1e-6)
        self.upscale2 = nn.Linear(channels // 4, 4 * (channels // 8))
        self.mask_heads = TokenMlps(NUM_MASKS, (channels, channels, channels, channels // 8))
        hidden = config.score_width
        self.iou_head = Mlp(channels, hidden, hidden, NUM_MASKS)
        self.object_head = Mlp(channels, channels, channels, 1)
        self.pointer_head: nn.Module = nn.Identity()
        if config.has_memory:
            self.pointer_head = Mlp(channels, channels, channels, channels)

    def forward(
        self,
        coarse_BCgg: Tensor,
        fine_BChw: Tensor,
        middle_BChw: Tensor,
        points_BP2: Tensor,
        labels_BP: Tensor,
        mask_B1hw: Tensor,
        has_mask_B1: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dtype = self.tokens.dtype
        prompt_BPC, prompt_bias_BP = self.prompts.points(points_BP2, labels_BP)
        own_BTC = self.tokens.expand(prompt_BPC.shape[0], -1, -1)
        tokens_BTC = torch.cat((own_BTC, prompt_BPC), dim=1)
        bias_BT = functional.pad(prompt_bias_BP, (OWN_TOKENS, 0))
        image_BLC = to_tokens(coarse_BCgg.to(dtype)) + self.prompts.mask(mask_B1hw, has_mask_B1)
        tokens_BTC, image_BLC = self.transformer(
            tokens_BTC, image_BLC, self.positions().to(dtype), bias_BT[:, None, None]
        )
        mask_tokens_B4C = tokens_BTC[:, 2:OWN_TOKENS]
        masks_B4hw = self._masks(image_BLC, mask_tokens_B4C, fine_BChw, middle_BChw)
        ious_B4 = self.iou_head(tokens_BTC[:, 1]).float().sigmoid()
        pointers_B4C = self.pointer_head(mask_tokens_B4C).float()
        return masks_B4hw, ious_B4, pointers_B4C, self.object_head(tokens_BTC[:, 0]).float()

    def _masks(
        self, image_BLC: Tensor, mask_tokens_B4C: Tensor, fine_BChw: Tensor, middle_BChw: Tensor
    ) -> Tensor:
        dtype = image_BLC.dtype
        middle_BTC = _doubled(self.upscale1(image_BLC), self.side)
        middle_BTC = middle_BTC + to_tokens(middle_BChw.to(dtype))
        middle_BTC = functional.gelu(self.upscale_norm(middle_BTC))
        fine_BTC = _doubled(self.upscale2(middle_BTC), 2 * self.side)
        fine_BTC = functional.gelu(fine_BTC + to_tokens(fine_BChw.to(dtype)))
        masks_B4T = self.mask_heads(mask_tokens_B4C) @ fine_BTC.transpose(1, 2)
        return masks_B4T.unflatten(2, (4 * self.side, -1)).float()


def _doubled(x_BTC: Tensor, side: int) -> Tensor:
    """Tokens with four pixels' channels each -> four times as many tokens, in raster order."""
    channels = x_BTC.shape[2] // 4
    split = x_BTC.reshape(-1, side, side, 2, 2, channels)
    return split.transpose(2, 3).reshape(-1, 4 * side * side, channels)


class TokenMlps(nn.Module):
    """An MLP per token, all tokens in one product per layer."""

    def __init__(self, count: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        fresh = [Mlp(*widths) for _ in range(count)]
        self.depth = len(widths) - 1
        for depth in range(self.depth):
            layers = [cast(nn.Linear, mlp.layers[depth]) for mlp in fresh]
            weights = torch.stack([layer.weight.detach().T for layer in layers])
            biases = torch.stack([layer.bias.detach()[None] for layer in layers])
            self.register_parameter(f"weight{depth}", nn.Parameter(weights.contiguous()))
            self.register_parameter(f"bias{depth}", nn.Parameter(biases))

    def forward(self, x_BNC: Tensor) -> Tensor:
        x_BN1C = x_BNC.unsqueeze(2)
        for depth in range(self.depth):
            x_BN1C = x_BN1C @ getattr(self, f"weight{depth}") + getattr(self, f"bias{depth}")
            if depth < self.depth - 1:
                x_BN1C = functional.relu(x_BN1C)
        return x_BN1C.squeeze(2)


class TwoWayTransformer(nn.Module):
    """Tokens and picture attend to each other in turn."""

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayLayer(config, is_first=number == 0) for number in range(config.decoder_layers)
        )
        self.to_image = Attention(config, config.channels // 2)
        self.norm = nn.LayerNorm(config.channels)

    def forward(
        self, tokens_BTC: Tensor, image_BLC: Tensor, positions_1LC: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        start_BTC = tokens_BTC
        for layer in self.layers:
            tokens_BTC, image_BLC = layer(tokens_BTC, image_BLC, start_BTC, positions_1LC, bias)
        placed = image_BLC + positions_1LC
        seen = self.to_image(tokens_BTC + start_BTC, placed, image_BLC)
        return self.norm(tokens_BTC + seen), image_BLC


class TwoWayLayer(nn.Module):
    """Tokens to tokens, tokens to picture, MLP on tokens, picture to tokens."""

    def __init__(self, config: Sam2Config, *, is_first: bool) -> None:
        super().__init__()
        channels, half = config.channels, config.channels // 2
        self.is_first = is_first
        self.to_tokens = Attention(config, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.to_image = Attention(config, half)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, config.decoder_mlp, channels)
        self.norm3 = nn.LayerNorm(channels)
        self.from_image = Attention(config, half)
        self.norm4 = nn.LayerNorm(channels)

    def forward(
        self,
        tokens_BTC: Tensor,
        image_BLC: Tensor,
        start_BTC: Tensor,
        positions_1LC: Tensor,
        bias: Tensor,
    ) -> tuple[Tensor, Tensor]:
        # The first layer's tokens are the prompt itself: nothing to add it to.
        asked = tokens_BTC if self.is_first else tokens_BTC + start_BTC
        seen = self.to_tokens(asked, asked, tokens_BTC, bias)
        tokens_BTC = self.norm1(seen if self.is_first else tokens_BTC + seen)
        placed = image_BLC + positions_1LC
        seen = self.to_image(tokens_BTC + start_BTC, placed, image_BLC)
        tokens_BTC = self.norm2(tokens_BTC + seen)
        tokens_BTC = self.norm3(tokens_BTC + self.mlp(tokens_BTC))
        seen = self.from_image(placed, tokens_BTC + start_BTC, tokens_BTC, bias)
        return tokens_BTC, self.norm4(image_BLC + seen)


class Attention(nn.Module):
    """Multi-head attention over a narrower width."""

    def __init__(self, config: Sam2Config, width: int) -> None:
        super().__init__()
        channels, self.heads = config.channels, config.decoder_heads
        self.q = nn.Linear(channels, width)
        self.k = nn.Linear(channels, width)
        self.v = nn.Linear(channels, width)
        self.out = nn.Linear(width, channels)
        scale_queries(self.q, rows=width, head_width=width // self.heads)

    def forward(
        self, q_BTC: Tensor, k_BTC: Tensor, v_BTC: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        parts = (self.q(q_BTC), self.k(k_BTC), self.v(v_BTC))
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        return self.out(attend(q, k, v, bias).transpose(1, 2).flatten(2))
