"""What every Triton kernel here asks of its surroundings: interpreter or device, scratch, programs.

The interpreter (TRITON_INTERPRET=1, read when triton is imported) multiplies the bit patterns of
bfloat16 and truncates when it casts to it, so interpreted kernels upcast tiles after the load and
keep scratch in float32. Knows no op.
"""

import os
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from pixelis_fast.kernels.checks import check

TRITON_VERSION = tuple(int(part) for part in version("triton").split(".")[:2])
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
"""Whether this process interprets kernels on the CPU instead of compiling them."""

COMPILER_OPTIONS = {} if INTERPRETED else {"enable_fp_fusion": True}
"""For every launch: triton 3.10 will stop fusing a · b + c where nothing is said."""
IMPLEMENTATIONS = ("auto", "triton", "cpu")


def chosen_implementation(implementation: str, tensor: Tensor) -> str:
    """ "triton" or "cpu"; "auto" follows the tensor's device."""
    check(
        implementation in IMPLEMENTATIONS,
        "implementation",
        f"one of {', '.join(IMPLEMENTATIONS)}",
        repr(implementation),
    )
    if implementation == "auto":
        return "cpu" if tensor.device.type == "cpu" else "triton"
    on_cpu = tensor.device.type == "cpu"
    if implementation == "triton":
        check(
            INTERPRETED or not on_cpu,
            "implementation",
            "tensors on a GPU, or TRITON_INTERPRET=1 set before triton is imported",
            "triton on CPU tensors",
        )
    else:
        check(on_cpu, "implementation", "tensors on the CPU", f"cpu on {tensor.device}")
    return implementation


def scratch_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of a buffer kernels write and read back: the given one, float32 under the interpreter."""
    return torch.float32 if INTERPRETED else dtype


@lru_cache
def _multiprocessors(index: int) -> int:
    return int(torch.cuda.get_device_properties(index).multi_processor_count)


def num_programs(device: torch.device) -> int:
    """Programs of a persistent kernel: one per multiprocessor; a few under the interpreter."""
    if device.type == "cpu":
        return 3
    return _multiprocessors(
        device.index if device.index is not None else torch.cuda.current_device()
    )


def descriptor(tensor: Tensor, block: list[int]) -> Any:
    """A TMA descriptor of a matrix; rows start on 16-byte boundaries."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor.from_tensor(tensor, block)
