"""The text decoder's layers: grouped-query attention with q/k norms and mRoPE, then SwiGLU.

Query, key and value projections are one linear, gate and up projections are one linear; weights.py
splits and joins them on disk. A layer knows no tokens, no vision and no sampling.
Architecture: Qwen3 (arXiv 2505.09388) and Qwen3-VL (arXiv 2511.21631).

Shapes: N = tokens of all sequences, D = hidden, H = query heads, K = key/value heads, F = head_dim.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu

from pixelis_fast.policy.config import TextConfig
from pixelis_fast.policy.rope import Rotation, rotate

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Layer index, queries (N, H, F), keys and values (N, K, F) -> (N, H, F)."""
Apply = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]
"""A linear layer and its rows -> its output."""


def apply_at_once(linear: Callable[[Tensor], Tensor], x_ND: Tensor) -> Tensor:
    return linear(x_ND)


class Site(NamedTuple):
    """Which linear layer of a decoder: adapters belong to places, not to one policy's modules."""

    layer: int
    name: str
    """qkv, out, gate_up or down."""


class Projection(nn.Linear):
    """A linear layer without bias that knows its place."""

    def __init__(self, inputs: int, outputs: int, site: Site) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.site = site


@dataclass(frozen=True)
class Context:
    """What all layers of one forward share."""

    rotation: Rotation
    attend: Attend
    apply: Apply = apply_at_once


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, over the last axis."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    """Grouped-query attention; queries and keys are normalised per head, then rotated."""

    def __init__(self, config: TextConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        self.head_dim, self.eps = config.head_dim, config.rms_norm_eps
        self.qkv = Projection(config.hidden_size, config.qkv_size, Site(index, "qkv"))
        self.q_norm = nn.Parameter(torch.ones(config.head_dim))
        self.k_norm = nn.Parameter(torch.ones(config.head_dim))
        mixed_size = config.num_heads * config.head_dim
        self.out = Projection(mixed_size, config.hidden_size, Site(index, "out"))

    def forward(self, x_ND: Tensor, context: Context) -> Tensor:
        qkv = context.apply(self.qkv, x_ND).view(x_ND.shape[0], -1, self.head_dim)
        rotated, values_NKF = self._rotate(qkv, context.rotation)
        queries_NHF, keys_NKF = rotated.split((self.num_heads, self.num_kv_heads), dim=1)
        mixed_NHF = context.attend(self.index, queries_NHF, keys_NKF, values_NKF)
        return context.apply(self.out, mixed_NHF.reshape(x_ND.shape[0], -1))

    def _rotate(self, qkv: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """Rotated queries and keys as one tensor (N, H + K, F), and values (N, K, F)."""
        num_rotated = self.num_heads + self.num_kv_heads
        qk, values_NKF = qkv.split((num_rotated, self.num_kv_heads), dim=1)
        # Queries and keys share one norm and one rotation: half the small kernels per layer.
        scale = torch.cat(
            (
                self.q_norm.expand(self.num_heads, -1),
                self.k_norm.expand(self.num_kv_heads, -1),
            )
        )
        normed = rms_norm(qk, (self.head_dim,), None, self.eps) * scale
        return rotate(normed, rotation), values_NKF


class Layer(nn.Module):
    """Attention and SwiGLU, each behind a norm and added to the stream."""

    def __init__(self, config: TextConfig, index: int) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.attention_norm = RMSNorm(size, eps)
        self.attention = Attention(config, index)
        self.mlp_norm = RMSNorm(size, eps)
        self.gate_up = Projection(size, 2 * config.intermediate_size, Site(index, "gate_up"))
        self.down = Projection(config.intermediate_size, size, Site(index, "down"))

    def forward(self, x_ND: Tensor, context: Context) -> Tensor:
        x_ND = x_ND + self.attention(self.attention_norm(x_ND), context)
        gate, up = context.apply(self.gate_up, self.mlp_norm(x_ND)).chunk(2, dim=-1)
        return x_ND + context.apply(self.down, silu(gate) * up)
