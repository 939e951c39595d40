"""The text decoder's layers: grouped-query attention with q/k norms and mRoPE, then SwiGLU.

Query, key and value projections are one linear, gate and up projections are one linear; weights.py
splits and joins them on disk. A layer knows no tokens, no vision and no sampling.
Architecture: Qwen3 (arXiv 2505.09388) and Qwen3-VL (arXiv 2511.21631).

Shapes: N = tokens of all sequences, D = hidden, H = query heads, K = key/value heads, F = head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu

from pixelis_fast.policy.attention import Mask, Packing, cached_attention, causal_attention
from pixelis_fast.policy.cache import LayerWindow
from pixelis_fast.policy.config import TextConfig
from pixelis_fast.policy.rope import Rotation, rotate


@dataclass(frozen=True)
class Context:
    """What all layers of one forward share."""

    rotation: Rotation
    packing: Packing
    windows: Sequence[Sequence[LayerWindow]] | None = None
    """Per layer, each sequence's place in its cache; None without caches."""
    masks: Sequence[Mask] = ()


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
        self.qkv = nn.Linear(config.hidden_size, config.qkv_size, bias=False)
        self.q_norm = nn.Parameter(torch.ones(config.head_dim))
        self.k_norm = nn.Parameter(torch.ones(config.head_dim))
        self.out = nn.Linear(config.num_heads * config.head_dim, config.hidden_size, bias=False)

    def forward(self, x_ND: Tensor, context: Context) -> Tensor:
        rotated, values_NKF = self._project(x_ND, context.rotation)
        queries_NHF, keys_NKF = rotated.split((self.num_heads, self.num_kv_heads), dim=1)
        mixed_NHF = self._mix(queries_NHF, keys_NKF, values_NKF, context=context)
        return self.out(mixed_NHF.reshape(x_ND.shape[0], -1))

    def _mix(
        self, queries_NHF: Tensor, keys_NKF: Tensor, values_NKF: Tensor, *, context: Context
    ) -> Tensor:
        if context.windows is None:
            return causal_attention(queries_NHF, keys_NKF, values_NKF, packing=context.packing)
        return cached_attention(
            queries_NHF,
            keys_NKF,
            values_NKF,
            lengths=context.packing.lengths,
            windows=context.windows[self.index],
            masks=context.masks,
        )

    def _project(self, x_ND: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """Rotated queries and keys as one tensor (N, H + K, F), and values (N, K, F)."""
        num_rotated = self.num_heads + self.num_kv_heads
        qkv = self.qkv(x_ND).view(x_ND.shape[0], -1, self.head_dim)
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
        self.gate_up = nn.Linear(size, 2 * config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, size, bias=False)

    def forward(self, x_ND: Tensor, context: Context) -> Tensor:
        x_ND = x_ND + self.attention(self.attention_norm(x_ND), context)
        gate, up = self.gate_up(self.mlp_norm(x_ND)).chunk(2, dim=-1)
        return x_ND + self.down(silu(gate) * up)
