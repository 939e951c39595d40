"""Attention on the CPU whose values may be narrower than its keys."""

from pixelis_fast.kernels.attention.op import attention, has_tiles

__all__ = ["attention", "has_tiles"]
