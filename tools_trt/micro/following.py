"""An object's bank of memories in training and evaluation: what SAM 2 keeps of frames it has seen.

The prompted frame stays; of the others the last ones, and the pointers of all until their slots
are full. Every clip starts at its prompted frame, so frames are told by their number.

B = objects, L = tokens of the coarse grid, C = channels, K = memory channels, M = bank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pixelis_fast.tools_trt.models.sam2_layers import to_maps, to_tokens
from pixelis_fast.tools_trt.models.sam2_model import Sam2Graphs, Sam2Memory


class Bank:
    """Memories of frames 0, 1, … in order.

    `longest` is the distance in time that pointers' places are shares of: the clip's length, as far
    as there are slots.
    """

    def __init__(self, graphs: Sam2Graphs, *, longest: int) -> None:
        assert graphs.memory is not None
        self.memory: Sam2Memory = graphs.memory
        self.config, self.longest = graphs.config, longest
        self.tokens: list[Tensor] = []
        self.pointers: list[Tensor] = []

    def add(self, memory_BKgg: Tensor, pointers_BC: Tensor) -> None:
        self.tokens.append(to_tokens(memory_BKgg))
        self.pointers.append(pointers_BC)

    def condition(self, coarse_BCgg: Tensor) -> Tensor:
        """The next frame's features with what the bank knows of each object."""
        now = len(self.tokens)
        memory_BMK, position_BMK, frames = self._frames(now)
        pointers_BPK, pointer_position_BPK = self._pointers(now)
        memory_BMK = torch.cat((memory_BMK, pointers_BPK), 1)
        position_BMK = torch.cat((position_BMK, pointer_position_BPK), 1)
        attention = self.memory.attention.for_bank(frames, pointer_tokens=pointers_BPK.shape[1])
        seen_BLC = attention(
            to_tokens(coarse_BCgg),
            self.memory.frame_positions,
            memory_BMK,
            position_BMK,
            memory_BMK.new_zeros(1, 1, 1, memory_BMK.shape[1]),
        )
        return to_maps(seen_BLC, self.config.coarse_side)

    def _frames(self, now: int) -> tuple[Tensor, Tensor, int]:
        """(tokens, positions, number) of the prompted frame and the last ones."""
        recent = range(max(1, now - self.config.memory_frames + 1), now)
        numbers = [0, *recent]
        tokens_BMK = torch.cat([self.tokens[number] for number in numbers], 1)
        # Distance 0 marks the prompted frame.
        backs = [0] + [now - number for number in recent]
        position_1MK = torch.cat([self.memory.position_of(back) for back in backs], 1)
        return tokens_BMK, position_1MK.expand_as(tokens_BMK), len(numbers)

    def _pointers(self, now: int) -> tuple[Tensor, Tensor]:
        slots = self.config.pointer_slots
        numbers = [0, *range(max(1, now - slots + 1), now)]
        pointers_BNC = torch.stack([self.pointers[number] for number in numbers], 1)
        tokens_BPK = self.memory.pointer_tokens(pointers_BNC)
        back_N = torch.tensor([float(now - number) for number in numbers])
        position_NK = self.memory.pointer_positions(back_N, longest=self.longest)
        position_PK = position_NK.repeat_interleave(self.config.tokens_per_pointer, 0)
        return tokens_BPK, position_PK[None].expand_as(tokens_BPK)
