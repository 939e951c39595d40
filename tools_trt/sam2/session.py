"""What a video session is told, and what it answers.

Shapes: B = objects; H, W = frame; m = side of the low-resolution masks.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pixelis_fast.tools_trt.models.sam2_config import Sam2Config
from pixelis_fast.tools_trt.results import RleMask
from pixelis_fast.tools_trt.rle import encode_mask
from pixelis_fast.tools_trt.sam2.attend import AttendRule
from pixelis_fast.tools_trt.sam2.bank import BankShape
from pixelis_fast.tools_trt.sam2.bank_size import WIDE_PROMPTS
from pixelis_fast.tools_trt.sam2.steps import resize

ObjectId = Hashable


@dataclass(frozen=True)
class SessionConfig:
    """How much a session keeps, and what a correction does.

    Example:
        VideoSession(sam2, config=SessionConfig(window=32, recent_frames=32))
    """

    num_frames: int | None = None
    """Length of the video if known: below 16 it scales the pointers' time code."""
    window: int | None = None
    """Frames that can be prompted and tracked, the newest ones; None keeps all."""
    prompted_frames: int = 8
    """Per object; one more is refused until another is cleared."""
    recent_frames: int = 16
    """Tracked frames per object whose memory is kept."""
    attended_prompts: int | None = None
    """Prompted frames that a frame attends to, the closest first; None for all."""
    stride: int = 1
    """Of the tracked frames that are attended to."""
    corrections_stay: bool = True
    """A corrected frame becomes a prompted one, as in SAM 2's training. False is the default of
    the sam2 package, where the next propagation overwrites the correction."""
    encode_batch: int = 1
    """Frames encoded at once while propagating."""
    object_batch: int | None = None
    """Objects per call of a graph. None for all that the graphs take at once."""

    def __post_init__(self) -> None:
        counts = (self.num_frames, self.prompted_frames, self.object_batch)
        if any(count is not None and count < 1 for count in counts):
            raise ValueError(f"session: expected counts >= 1, got {self}")

    def check_compiled(self) -> None:
        """ValueError where a bank may outgrow what graphs are compiled for."""
        prompts = self.prompted_frames
        if self.attended_prompts is not None:
            prompts = min(prompts, self.attended_prompts)
        if prompts > WIDE_PROMPTS[-1]:
            raise ValueError(
                f"session: expected prompted_frames or attended_prompts <= {WIDE_PROMPTS[-1]} with "
                f"compiled memory attention, got {prompts}"
            )

    def rule(self, model: Sam2Config) -> AttendRule:
        return AttendRule(
            memory_frames=model.memory_frames,
            pointer_slots=min(model.pointer_slots, self.num_frames or model.pointer_slots),
            stride=self.stride,
            max_conditioning=self.attended_prompts,
        )

    def bank(self, model: Sam2Config) -> BankShape:
        return BankShape(
            tokens=model.coarse_side**2,
            memory_channels=model.memory_channels,
            pointer_channels=model.channels,
            mask_side=model.mask_side,
            conditioning=self.prompted_frames,
            recent=self.recent_frames,
        )


@dataclass(frozen=True)
class FrameMasks:
    """Every object on one frame, in the order the objects were added."""

    frame: int
    object_ids: tuple[ObjectId, ...]
    logits_B1mm: Tensor
    """Low resolution; an absent object's are all -1024."""
    object_scores: tuple[float, ...]
    """Logits that the objects are visible."""
    size: tuple[int, int]

    def logits(self) -> Tensor:
        """(B, H, W) at the frame's size."""
        return resize(self.logits_B1mm, self.size)[:, 0]

    def visible(self) -> tuple[float, ...]:
        """Probabilities that the objects are visible."""
        return tuple(torch.tensor(self.object_scores).sigmoid().tolist())

    def masks(self) -> np.ndarray:
        """(B, H, W) of bool."""
        return (self.logits() > 0).cpu().numpy()

    def rle(self) -> tuple[RleMask | None, ...]:
        """One mask per object; None where it covers no pixel."""
        return tuple(encode_mask(mask) if mask.any() else None for mask in self.masks())
