"""Antialiased resize of a picture in a tensor, on whatever device it lies.

Pillow's filters, weights and rounding as matrix products, two per axis. A weight is a whole number
of 2^-22, as in Pillow; split into a high and a low half, its products with bytes are whole numbers
that float32 adds without an error, in TF32 too. So the result is that of `kernels.resize`, which
serves pixels in host memory. Only windows of far more than 64 pixels may round one step away.

Shapes: H, W = input size; h, w = output size; C = 3.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pixelis_fast.kernels.resize.op import Filter

WEIGHT_BITS = 22
"""Of Pillow's fixed-point weights: a byte, a sign and an overshoot leave these of 32."""
HALF_BITS = WEIGHT_BITS // 2


def resample(pixels_HWC: Tensor, height: int, width: int, *, filter: Filter) -> Tensor:
    """(H, W, C) uint8 -> (height, width, C) uint8, the horizontal axis first."""
    if pixels_HWC.dtype != torch.uint8 or pixels_HWC.ndim != 3 or 0 in pixels_HWC.shape:
        got = f"{pixels_HWC.dtype} {tuple(pixels_HWC.shape)}"
        raise ValueError(f"pixels_HWC: expected uint8 (H, W, C), none of them 0, got {got}")
    if filter not in FILTERS:
        raise ValueError(f"filter: expected one of {', '.join(FILTERS)}, got {filter!r}")
    if height < 1 or width < 1:
        raise ValueError(f"size: expected at least 1x1, got {width}x{height}")
    columns_CWH = pixels_HWC.permute(2, 1, 0).float()
    narrow_CwH = _along_rows(columns_CWH, width, filter)
    resized_Chw = _along_rows(narrow_CwH.mT, height, filter)
    return resized_Chw.permute(1, 2, 0).to(torch.uint8).contiguous()


def _along_rows(pixels_CNM: Tensor, size: int, filter: Filter) -> Tensor:
    """(C, N, M) -> (C, size, M), whole numbers 0..255."""
    if pixels_CNM.shape[1] == size:
        return pixels_CNM
    weights_nN = weight_matrix(pixels_CNM.shape[1], size, filter, device=pixels_CNM.device)
    high_nN = (weights_nN / 2**HALF_BITS).round()
    low_nN = weights_nN - high_nN * 2**HALF_BITS
    high_CnM = (high_nN.float() @ pixels_CNM).int()
    low_CnM = (low_nN.float() @ pixels_CNM).int()
    total_CnM = (high_CnM << HALF_BITS) + low_CnM + (1 << (WEIGHT_BITS - 1))
    return (total_CnM >> WEIGHT_BITS).clamp_(0, 255).float()


def weight_matrix(in_size: int, out_size: int, filter: Filter, *, device: torch.device) -> Tensor:
    """(out_size, in_size) float64, whole numbers of 2^-22. A reduction widens the filter."""
    value, support = FILTERS[filter]
    scale = in_size / out_size
    widening = max(scale, 1.0)
    # Which pixels a window holds turns on halves of pixels: float64 decides, as in Pillow.
    numbers = torch.arange(out_size, dtype=torch.float64, device=device)[:, None]
    centres = (numbers + 0.5) * scale
    positions = torch.arange(in_size, dtype=torch.float64, device=device)[None, :]
    first = (centres - support * widening + 0.5).trunc().clamp(min=0)
    end = (centres + support * widening + 0.5).trunc().clamp(max=in_size)
    weights = value((positions - centres + 0.5) / widening)
    weights = weights * ((positions >= first) & (positions < end))
    shares = weights / weights.sum(1, keepdim=True)
    # Halves away from zero.
    return (shares * 2**WEIGHT_BITS + 0.5 * shares.sign()).trunc()


def _cubic(x: Tensor) -> Tensor:
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _lanczos(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 3, torch.sinc(x) * torch.sinc(x / 3), 0.0)


def _box(x: Tensor) -> Tensor:
    return ((x > -0.5) & (x <= 0.5)).double()


FILTERS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "bicubic": (_cubic, 2.0),
    "bilinear": (_triangle, 1.0),
    "lanczos": (_lanczos, 3.0),
    "box": (_box, 0.5),
}
"""Name -> (weight at a distance, largest distance): Keys' cubic with a = -0.5, the triangle,
Lanczos with three lobes, the box. Facts of Pillow's Resample.c."""
