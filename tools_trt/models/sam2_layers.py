"""Parts that the SAM 2 graphs share.

Convention of all attention weights here: queries leave their projection already divided by the
square root of the head's width, so attention itself scales nothing.

Shapes: B = batch, H = heads, N = B·H, T = tokens, M = keys, C = channels, V = width of values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from pixelis_fast.kernels.attention import attention, has_tiles

TILED_SEQUENCES = 8
"""Sequences of a batch, heads counted, that go to our own kernel one by one."""


class DerivedTable(nn.Module, ABC):
    """A tensor that follows from weights: computed anew in training, once after `bake`.

    Training and loading weights drop what was baked, so a stale table is never used.
    """

    table: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", None, persistent=False)
        self.register_load_state_dict_post_hook(_drop_table)

    @abstractmethod
    def compute(self) -> Tensor:
        """The table for the present weights."""

    def forward(self) -> Tensor:
        return self.compute() if self.table is None else self.table

    def train(self, mode: bool = True) -> DerivedTable:
        if mode:
            self.table = None
        return super().train(mode)


def _drop_table(module: nn.Module, _: object) -> None:
    module.table = None  # type: ignore[assignment]


@torch.no_grad()
def bake(module: nn.Module) -> None:
    """Computes every derived table below `module` for its present weights."""
    for part in module.modules():
        if isinstance(part, DerivedTable):
            part.table = part.compute()


class Mlp(nn.Module):
    """Linear layers with an activation between them."""

    def __init__(self, *widths: int, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        pairs = pairwise(widths)
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairs)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        *inner, last = self.layers
        for layer in inner:
            x = self.activation(layer(x))
        return last(x)


def attend(q_BHTC: Tensor, k_BHTC: Tensor, v_BHTC: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention of queries that carry their scale; values may be narrower than keys."""
    width, narrow = q_BHTC.shape[-1], v_BHTC.shape[-1]
    is_eager = not (torch.jit.is_tracing() or torch.compiler.is_compiling())
    if is_eager and q_BHTC.device.type == "cpu":
        if _suits_tiles(q_BHTC, k_BHTC):
            return _on_tiles(q_BHTC, k_BHTC, v_BHTC, bias)
        if narrow < width:
            # PyTorch's blocked kernel for the CPU wants one width; its other one writes all scores.
            padded = functional.pad(v_BHTC, (0, width - narrow))
            return attend(q_BHTC, k_BHTC, padded, bias)[..., :narrow]
    return functional.scaled_dot_product_attention(
        q_BHTC, k_BHTC, v_BHTC, attn_mask=bias, scale=1.0
    )


def _suits_tiles(q_BHTC: Tensor, k_BHTC: Tensor) -> bool:
    """Few long sequences, as memory's; each is a call of its own, which many windows would feel."""
    few = q_BHTC.shape[0] * q_BHTC.shape[1] <= TILED_SEQUENCES
    learns = torch.is_grad_enabled() and (q_BHTC.requires_grad or k_BHTC.requires_grad)
    return few and q_BHTC.dtype == torch.bfloat16 and not learns and has_tiles()


def _on_tiles(q_BHTC: Tensor, k_BHTC: Tensor, v_BHTC: Tensor, bias: Tensor | None) -> Tensor:
    """Heads as a batch; a bias of the keys alone, as every bias here."""
    batch, heads = q_BHTC.shape[:2]
    bias_NM = None
    if bias is not None:
        assert bias.shape[1:3] == (1, 1), "a bias of the keys alone"
        bias_NM = bias.expand(batch, heads, 1, -1).flatten(0, 2)
    q_NTC, k_NMC, v_NMV = (each.flatten(0, 1) for each in (q_BHTC, k_BHTC, v_BHTC))
    found = attention(q_NTC, k_NMC, v_NMV, bias_NM)
    return found.unflatten(0, (batch, heads))


def to_maps(x_BTC: Tensor, side: int) -> Tensor:
    """Tokens in raster order -> (B, C, side, side)."""
    return x_BTC.unflatten(1, (side, side)).permute(0, 3, 1, 2)


def to_tokens(x_BCHW: Tensor) -> Tensor:
    """(B, C, H, W) -> tokens in raster order."""
    return x_BCHW.flatten(2).transpose(1, 2)


def conv_norm_gelu(x_BCHW: Tensor, conv: nn.Conv2d, norm: nn.LayerNorm) -> Tensor:
    """A convolution, then each pixel's channels normalised."""
    normed = norm(conv(x_BCHW).permute(0, 2, 3, 1))
    return functional.gelu(normed).permute(0, 3, 1, 2)


@torch.no_grad()
def scale_queries(linear: nn.Linear, *, rows: int, head_width: int) -> None:
    """Brings a fresh projection's first `rows` to the convention above."""
    linear.weight[:rows] /= head_width**0.5
    linear.bias[:rows] /= head_width**0.5
