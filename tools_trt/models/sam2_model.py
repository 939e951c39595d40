"""All graphs of one SAM 2 model with the loose weights that join them across frames.

A graph knows no frame; this object holds what the engines add between them: the embedding of no
memory, the codes of a memory's place in time and space, and what stands for a lost object.

Shapes: C = channels, K = memory channels, L = tokens of the coarse grid, N = pointers,
F = memory frames.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pixelis_fast.tools_trt.models.sam2_config import Sam2Config
from pixelis_fast.tools_trt.models.sam2_decoder import PromptDecoder
from pixelis_fast.tools_trt.models.sam2_encoder import ImageEncoder
from pixelis_fast.tools_trt.models.sam2_memory import (
    MemoryAttention,
    MemoryEncoder,
    sine_positions,
    time_code,
)

DECODED = ("masks", "ious", "pointers", "score")
OUTPUTS = {
    "encoder": ("fine", "middle", "coarse"),
    "decoder": DECODED,
    "object_decoder": DECODED,
    "memory_encoder": ("memory",),
    "memory_attention": ("seen",),
}
"""What each graph gives, in order; its inputs bear the names of its forward's arguments.

The decoder has two names: for prompts on one picture, and for objects that each see the frame with
a memory of their own."""


class Sam2Graphs(nn.Module):
    """The graphs and the loose parameters; `memory` is None for weights of single pictures.

    Example:
        graphs = load_graphs("sam2.1_hiera_tiny.pt", side=512)
        fine, middle, coarse = graphs.encoder(pixels_B3SS)
        masks, ious, pointers, score = graphs.decoder(
            coarse + graphs.no_memory, fine, middle, points, labels, mask, has_mask
        )
    """

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        self.config = config
        self.encoder = ImageEncoder(config)
        self.decoder = PromptDecoder(config)
        self.no_memory = nn.Parameter(0.02 * torch.randn(1, config.channels, 1, 1))
        """Added to the coarse features of a picture, and of a video's first frame."""
        self.memory = Sam2Memory(config) if config.has_memory else None

    def modules_by_name(self) -> dict[str, nn.Module]:
        """The graphs under the names of `OUTPUTS`; those of the memory only where there is one."""
        graphs: dict[str, nn.Module] = {"encoder": self.encoder, "decoder": self.decoder}
        if self.memory is None:
            return graphs
        return graphs | {
            "object_decoder": self.decoder,
            "memory_encoder": self.memory.encoder,
            "memory_attention": AnyBank(self.memory),
        }


class AnyBank(nn.Module):
    """Memory attention for however many frames lie before the pointer slots of a bank."""

    def __init__(self, memory: Sam2Memory) -> None:
        super().__init__()
        self.attention = memory.attention

    def forward(
        self,
        current_1LC: Tensor,
        current_position_1LC: Tensor,
        memory_BMK: Tensor,
        memory_position_BMK: Tensor,
        key_bias_B11M: Tensor,
    ) -> Tensor:
        pointer_tokens = self.attention.config.pointer_tokens
        frames, rest = divmod(memory_BMK.shape[1] - pointer_tokens, current_1LC.shape[1])
        if rest or frames < 1:
            raise ValueError(
                f"memory bank: expected whole frames of {current_1LC.shape[1]} tokens and "
                f"{pointer_tokens} pointer tokens, got {memory_BMK.shape[1]} tokens"
            )
        attention = self.attention.for_bank(frames, pointer_tokens=pointer_tokens)
        bank = (memory_BMK, memory_position_BMK, key_bias_B11M)
        return attention(current_1LC, current_position_1LC, *bank)


class Sam2Memory(nn.Module):
    """What video adds: the two memory graphs and the codes of time and space."""

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        self.config = config
        self.encoder = MemoryEncoder(config)
        self.attention = MemoryAttention(config)
        self.temporal = nn.Parameter(
            0.02 * torch.randn(config.memory_frames, config.memory_channels)
        )
        """(F, K): row n - 1 is added to a memory n frames back; the last row to a prompted one."""
        self.no_object_pointer = nn.Parameter(0.02 * torch.randn(config.channels))
        """Takes the pointer's place where the object is lost."""
        self.mask_to_prompt = nn.Conv2d(1, 1, 4, stride=4)
        """Brings a drawn mask (B, 1, S, S) to the decoder's size where only its pointer counts."""
        self.pointer_time = (
            nn.Linear(config.channels, config.memory_channels) if config.version == "2.1" else None
        )
        side = config.coarse_side
        self.register_buffer(
            "frame_positions", sine_positions(side, config.channels), persistent=False
        )
        self.register_buffer(
            "memory_positions", sine_positions(side, config.memory_channels), persistent=False
        )
        self.frame_positions: Tensor
        """(1, L, C) of the current frame."""
        self.memory_positions: Tensor
        """(1, L, K) of every memory, before its place in time is added."""

    def position_of(self, frames_back: int) -> Tensor:
        """(1, L, K) of a memory so many frames back; 0 for a prompted frame, wherever it is."""
        return self.memory_positions + self.temporal[frames_back - 1]

    def pointer_positions(self, frames_back_N: Tensor, *, longest: int) -> Tensor:
        """(N, K): place in time of pointers, as shares of the longest distance; 0 in version 2."""
        if self.pointer_time is None:
            return self.temporal.new_zeros(frames_back_N.shape[0], self.config.memory_channels)
        return self.pointer_time(time_code(frames_back_N / longest, self.config.channels))

    def pointer_tokens(self, pointers_BNC: Tensor) -> Tensor:
        """(B, N, C) -> (B, N * tokens_per_pointer, K)."""
        return pointers_BNC.unflatten(2, (-1, self.config.memory_channels)).flatten(1, 2)

    def visible_or_not(self, pointers_BC: Tensor, object_score_B1: Tensor) -> Tensor:
        """The pointer where the object is in sight, else the one of no object."""
        is_visible_B1 = (object_score_B1 > 0).to(pointers_BC.dtype)
        return is_visible_B1 * pointers_BC + (1 - is_visible_B1) * self.no_object_pointer
