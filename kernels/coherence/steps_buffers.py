"""The one place that allocates what the kernels of this folder fill, on either device."""

import torch
from torch import Tensor


def new_buffer(like: Tensor, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Not filled: whoever asks for it writes every element."""
    return torch.empty(shape, dtype=dtype, device=like.device)
