"""Triton kernels of the segment mean: tokens into steps, and a step's gradient onto its tokens.

Forward: a program adds up the tokens of one step in a band of columns, in an order that depends on
the step's length alone; no token is read twice. Backward writes each token's row once; a token
outside every step gets zeros.

Shapes: N = tokens, D = embedding, T = steps.
"""

import triton
import triton.language as tl

from pixelis_fast.kernels.coherence.steps_bwd_kernels import load_tile
from pixelis_fast.kernels.coherence.steps_kernels import owner_of


@triton.jit(do_not_specialize=["num_tokens"])
def segment_mean_fwd_kernel(
    hidden_ptr,
    stride_n,
    offsets_ptr,
    steps_ptr,
    num_tokens,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    step = tl.program_id(0)
    start = tl.maximum(tl.load(offsets_ptr + step), 0)
    end = tl.minimum(tl.load(offsets_ptr + step + 1), num_tokens)
    column_C = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    sum_NC = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    for offset in range(0, end - start, BLOCK_N):
        token_N = start + offset + tl.arange(0, BLOCK_N)
        sum_NC += load_tile(hidden_ptr, token_N, stride_n, token_N < end, column_C, D)
    mean_C = tl.sum(sum_NC, axis=0) / tl.maximum(end - start, 1).to(tl.float32)
    tl.store(steps_ptr + step.to(tl.int64) * D + column_C, mean_C, mask=column_C < D)


@triton.jit(do_not_specialize=["num_tokens", "num_steps", "search_steps"])
def segment_mean_bwd_kernel(
    grad_steps_ptr,
    stride_t,
    offsets_ptr,
    grad_hidden_ptr,
    num_tokens,
    num_steps,
    search_steps,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    token_N = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    column_C = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    step_N = owner_of(token_N, offsets_ptr, num_steps, search_steps)
    start_N = tl.load(offsets_ptr + step_N)
    end_N = tl.load(offsets_ptr + step_N + 1)
    inside_N = (start_N <= token_N) & (token_N < end_N)
    share_N = 1.0 / tl.maximum(end_N - start_N, 1).to(tl.float32)
    grad_NC = load_tile(grad_steps_ptr, step_N, stride_t, inside_N, column_C, D)
    offsets_NC = token_N.to(tl.int64)[:, None] * D + column_C[None, :]
    mask_NC = (token_N < num_tokens)[:, None] & (column_C < D)[None, :]
    tl.store(grad_hidden_ptr + offsets_NC, grad_NC * share_N[:, None], mask=mask_NC)
