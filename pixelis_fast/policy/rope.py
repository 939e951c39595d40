"""Rotary embeddings: interleaved three-axis (mRoPE) for the decoder, two-axis for the vision tower.

Both give a pair (cos_NF, sin_NF) of fp32 angles' values per token, computed once per forward and
shared by all layers; `rotate` applies it. The second half of F repeats the first, and the sign of
the rotation sits in sin, so that a rotation is one product, one roll and one fused multiply-add.
Formulas: Qwen3-VL's interleaved mRoPE (arXiv 2511.21631), rotate-half as in GPT-NeoX.

Shapes: N = tokens, H = heads, F = head_dim, A = F / 2 frequencies.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

Rotation = tuple[Tensor, Tensor]
"""(cos_N1F, sin_N1F), broadcast over heads."""


def text_rotation(
    positions_3N: Tensor,
    *,
    head_dim: int,
    theta: float,
    section: tuple[int, int, int],
    dtype: torch.dtype,
) -> Rotation:
    """The decoder's rotation: frequency a turns with the axis `axis_of_frequency` gives it."""
    device = positions_3N.device
    axes_A = axis_of_frequency(section, device)
    angles_NA = positions_3N.index_select(0, axes_A).T * frequencies(head_dim, theta, device)
    return _rotation(angles_NA, dtype)


def vision_rotation(
    rows_N: Tensor, columns_N: Tensor, *, head_dim: int, theta: float, dtype: torch.dtype
) -> Rotation:
    """The tower's rotation: half of the frequencies turn with rows, half with columns."""
    frequencies_A = frequencies(head_dim // 2, theta, rows_N.device)
    angles = (rows_N[:, None] * frequencies_A, columns_N[:, None] * frequencies_A)
    return _rotation(torch.cat(angles, dim=1), dtype)


def rotate(x_NHF: Tensor, rotation: Rotation) -> Tensor:
    """(N, H, F) -> (N, H, F): each pair (x[a], x[a + F/2]) turned by its angle."""
    cos_N1F, sin_N1F = rotation
    return torch.addcmul(x_NHF * cos_N1F, x_NHF.roll(x_NHF.shape[-1] // 2, -1), sin_N1F)


def _rotation(angles_NA: Tensor, dtype: torch.dtype) -> Rotation:
    cos_NA, sin_NA = angles_NA.cos().to(dtype), angles_NA.sin().to(dtype)
    cos_NF = torch.cat((cos_NA, cos_NA), dim=1)
    return cos_NF.unsqueeze(1), torch.cat((-sin_NA, sin_NA), dim=1).unsqueeze(1)


@lru_cache(maxsize=32)
def frequencies(head_dim: int, theta: float, device: torch.device) -> Tensor:
    """theta^(-2a / head_dim) for a = 0 .. head_dim/2 - 1, fp32."""
    with torch.inference_mode(False):
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        return (1.0 / (theta**exponents)).to(device)


@lru_cache(maxsize=32)
def axis_of_frequency(section: tuple[int, int, int], device: torch.device) -> Tensor:
    """0 = time, 1 = height, 2 = width: T H W T H W ... while H and W have shares, then T."""
    with torch.inference_mode(False):
        axes_A = torch.zeros(sum(section), dtype=torch.long)
        for axis in (1, 2):
            axes_A[axis : 3 * section[axis] : 3] = axis
        return axes_A.to(device)
