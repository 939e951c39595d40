"""Launches the kernels of pool_kernels.py. Imported only when a kernel is about to run.

Shapes: N = tokens, D = embedding, T = steps.
"""

import torch
from torch import Tensor

from pixelis_fast.kernels.coherence.pool_kernels import (
    segment_mean_bwd_kernel,
    segment_mean_fwd_kernel,
)
from pixelis_fast.kernels.coherence.steps_buffers import new_buffer
from pixelis_fast.kernels.triton_support import scratch_dtype

SUM_TOKENS, SUM_COLUMNS = 32, 128
SPREAD_TOKENS, SPREAD_COLUMNS = 16, 256
WARPS = 4


def forward(hidden_ND: Tensor, offsets_T1: Tensor) -> Tensor:
    num_tokens, width = hidden_ND.shape
    num_steps = len(offsets_T1) - 1
    steps_TD = new_buffer(hidden_ND, num_steps, width)
    if num_steps:
        segment_mean_fwd_kernel[(num_steps, -(-width // SUM_COLUMNS))](
            hidden_ND,
            hidden_ND.stride(0),
            offsets_T1,
            steps_TD,
            num_tokens,
            D=width,
            BLOCK_N=SUM_TOKENS,
            BLOCK_C=SUM_COLUMNS,
            num_warps=WARPS,
        )
    return steps_TD


def backward(grad_TD: Tensor, offsets_T1: Tensor, *, num_tokens: int, dtype: torch.dtype) -> Tensor:
    num_steps, width = grad_TD.shape
    grad_ND = new_buffer(grad_TD, num_tokens, width, dtype=scratch_dtype(dtype))
    if num_steps == 0:
        return grad_ND.zero_().to(dtype)
    if num_tokens:
        grid = (-(-num_tokens // SPREAD_TOKENS), -(-width // SPREAD_COLUMNS))
        segment_mean_bwd_kernel[grid](
            grad_TD,
            grad_TD.stride(0),
            offsets_T1,
            grad_ND,
            num_tokens,
            num_steps,
            num_steps.bit_length(),
            D=width,
            BLOCK_N=SPREAD_TOKENS,
            BLOCK_C=SPREAD_COLUMNS,
            num_warps=WARPS,
        )
    return grad_ND.to(dtype)
