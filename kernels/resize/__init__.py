"""Antialiased resize of a uint8 RGB image."""

from pixelis_fast.kernels.resize.op import resize

__all__ = ["resize"]
