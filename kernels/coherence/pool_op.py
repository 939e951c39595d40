"""The segment mean as a torch operator: fake kernel for the compiler, autograd, two paths.

`pooled_coherence` in op.py is the public call. The values in `offsets_T1` are checked here, on the
CPU only: on a GPU that would wait for the device.

Shapes: N = tokens, D = embedding, T = steps.
"""

from typing import Any

import torch
from torch import Tensor

from pixelis_fast.kernels.checks import check
from pixelis_fast.kernels.coherence.steps_op import check_sorted


@torch.library.custom_op("pixelis_fast::segment_mean", mutates_args=())
def segment_mean(
    hidden_ND: Tensor, offsets_T1: Tensor, implementation: str, threads: int
) -> Tensor:
    """-> the mean of each step's tokens, float32 (T, D); 0 for a step without tokens."""
    if offsets_T1.device.type == "cpu":
        check_offsets(offsets_T1, num_tokens=len(hidden_ND))
    if implementation == "triton":
        from pixelis_fast.kernels.coherence import pool_triton

        with torch.cuda.device_of(hidden_ND):
            return pool_triton.forward(hidden_ND, offsets_T1)
    from pixelis_fast.kernels.coherence import cpu_path

    return cpu_path.segment_mean_forward(hidden_ND, offsets_T1, threads)


@segment_mean.register_fake
def _(hidden_ND: Tensor, offsets_T1: Tensor, implementation: str, threads: int) -> Tensor:
    shape = (offsets_T1.shape[0] - 1, hidden_ND.shape[1])
    return hidden_ND.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op("pixelis_fast::segment_mean_backward", mutates_args=())
def segment_mean_backward(
    grad_TD: Tensor,
    offsets_T1: Tensor,
    num_tokens: int,
    dtype: torch.dtype,
    implementation: str,
    threads: int,
) -> Tensor:
    """-> the gradient of hidden_ND, in its dtype."""
    grad_TD = grad_TD if grad_TD.stride(1) == 1 else grad_TD.contiguous()
    if implementation == "triton":
        from pixelis_fast.kernels.coherence import pool_triton

        with torch.cuda.device_of(grad_TD):
            return pool_triton.backward(grad_TD, offsets_T1, num_tokens=num_tokens, dtype=dtype)
    from pixelis_fast.kernels.coherence import cpu_path

    return cpu_path.segment_mean_backward(grad_TD, offsets_T1, num_tokens, dtype, threads)


@segment_mean_backward.register_fake
def _(
    grad_TD: Tensor,
    offsets_T1: Tensor,
    num_tokens: int,
    dtype: torch.dtype,
    implementation: str,
    threads: int,
) -> Tensor:
    return grad_TD.new_empty((num_tokens, grad_TD.shape[1]), dtype=dtype)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    hidden_ND, offsets_T1, *options = inputs
    ctx.save_for_backward(offsets_T1)
    ctx.options = (hidden_ND.shape[0], hidden_ND.dtype, *options)


def _backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, None, None, None]:
    (offsets_T1,) = ctx.saved_tensors
    return segment_mean_backward(grad_TD, offsets_T1, *ctx.options), None, None, None


segment_mean.register_autograd(_backward, setup_context=_setup_context)


def check_offsets(offsets_T1: Tensor, *, num_tokens: int) -> None:
    """0 <= offsets[0] <= offsets[1] <= … <= num_tokens: tokens before and after belong to none."""
    first, last = int(offsets_T1[0]), int(offsets_T1[-1])
    fits = first >= 0 and last <= num_tokens
    check(fits, "step_offsets_T1", f"values from 0 to {num_tokens}", f"{first} to {last}")
    check_sorted("step_offsets_T1", offsets_T1)
