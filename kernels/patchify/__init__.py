"""Frames to the vision tower's patches."""

from pixelis_fast.kernels.patchify.op import patchify

__all__ = ["patchify"]
