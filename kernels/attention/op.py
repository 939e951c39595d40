"""softmax(q k' + bias) v in bfloat16 on AMX or AVX-512 BF16, by blocks of scores, no gradient.

torch's blocked kernel for the CPU wants values as wide as keys; SAM 2's memory has values a quarter
as wide. Products of bfloat16 are summed in float32 and the softmax is in float32, so the error is
that of rounding the inputs and the chances. Where there is neither, callers have torch's own.

Shapes: B = batch (and heads), T = queries, M = keys, C = width of keys, V = width of values.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixelis_fast.kernels import _cpu
from pixelis_fast.kernels.checks import check


def has_tiles() -> bool:
    """Whether this processor has AMX tiles, granted by the system, or AVX-512 BF16."""
    return _cpu.has_tile_attention()


def attention(
    queries_BTC: Tensor, keys_BMC: Tensor, values_BMV: Tensor, bias_BM: Tensor | None = None
) -> Tensor:
    """(B, T, V) bfloat16 on the CPU. Queries carry their scale; the bias is added to scores.

    RuntimeError without `has_tiles()`; ValueError on shapes, types and devices.
    """
    tensors = {"queries_BTC": queries_BTC, "keys_BMC": keys_BMC, "values_BMV": values_BMV}
    for name, tensor in tensors.items():
        got = f"{tuple(tensor.shape)} of {tensor.dtype} on {tensor.device}"
        is_fit = tensor.dim() == 3 and tensor.dtype == torch.bfloat16 and not tensor.is_cuda
        check(is_fit, name, "3 dimensions of bfloat16 on the CPU", got)
    batch, num_keys, width = keys_BMC.shape
    check(num_keys > 0, "keys_BMC", "at least one key", 0)
    check(
        (queries_BTC.shape[0], queries_BTC.shape[2]) == (batch, width),
        "queries_BTC",
        f"({batch}, T, {width}) like the keys",
        tuple(queries_BTC.shape),
    )
    check(
        values_BMV.shape[:2] == (batch, num_keys),
        "values_BMV",
        f"({batch}, {num_keys}, V) like the keys",
        tuple(values_BMV.shape),
    )
    check(
        bias_BM is None or bias_BM.shape == (batch, num_keys),
        "bias_BM",
        f"({batch}, {num_keys}) like the keys",
        None if bias_BM is None else tuple(bias_BM.shape),
    )
    found = [
        _one(*row, None if bias_BM is None else bias_BM[n])
        for n, row in enumerate(zip(queries_BTC, keys_BMC, values_BMV, strict=True))
    ]
    return torch.stack(found)


def _one(queries_TC: Tensor, keys_MC: Tensor, values_MV: Tensor, bias_M: Tensor | None) -> Tensor:
    bias = None if bias_M is None else bias_M.detach().float().contiguous().numpy()
    threads = torch.get_num_threads()
    out = _cpu.tile_attention(_bits(queries_TC), _bits(keys_MC), _bits(values_MV), bias, threads)
    return torch.from_numpy(out).view(torch.bfloat16)


def _bits(tensor: Tensor) -> NDArray[np.int16]:
    """numpy has no bfloat16."""
    return tensor.detach().contiguous().view(torch.int16).numpy()
