"""How many frames and pointers a memory bank holds room for: what memory attention is compiled for.

One prompted frame needs the model's own numbers, each further one a frame and a pointer more.
Compiled graphs have a few of these sizes and fill the nearest up; eager ones take any. Knows no
tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

from pixelis_fast.tools_trt.models.sam2_config import Sam2Config

WIDE_PROMPTS = (4, 8)
"""Prompted frames that the wide banks are made for: half a session's default, and all of it."""


@dataclass(frozen=True)
class BankSize:
    """Slots of a bank.

    Example:
        BankSize(frames=7, pointers=16)
    """

    frames: int
    pointers: int

    def pointer_tokens(self, config: Sam2Config) -> int:
        return self.pointers * config.tokens_per_pointer

    def rows(self, config: Sam2Config) -> int:
        return self.frames * config.coarse_side**2 + self.pointer_tokens(config)


def full_bank(config: Sam2Config, *, prompts: int = 1) -> BankSize:
    """What an object attends to at most, by how many of its frames are prompted."""
    more = prompts - 1
    return BankSize(config.memory_frames + more, config.pointer_slots + more)


def compiled_banks(config: Sam2Config) -> tuple[BankSize, ...]:
    """Every number of frames up to the model's, then the wide ones; rows ascend."""
    usual = range(1, config.memory_frames + 1)
    narrow = [BankSize(frames, config.pointer_slots) for frames in usual]
    return (*narrow, *(full_bank(config, prompts=prompts) for prompts in WIDE_PROMPTS))


def fitting_bank(config: Sam2Config, *, frames: int, pointers: int) -> BankSize:
    """The smallest compiled bank with room for both."""
    for size in compiled_banks(config):
        if size.frames >= frames and size.pointers >= pointers:
            return size
    raise ValueError(
        f"memory bank: expected room in {compiled_banks(config)[-1]}, got {frames} frames and "
        f"{pointers} pointers"
    )
