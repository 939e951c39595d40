"""Prompts on a picture, in its pixels, as the tensors that SAM 2's decoder takes.

Any number of positive and negative points, a box, a mask of low-resolution logits, alone or
together; several prompts become one batch whose shorter ones are filled with slots that nothing
attends to. The order and the extra slot of no point are those of the sam2 package's predictor.

Shapes: B = prompts, P = point slots, h, w = mask prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelis_fast.tools_trt.models.sam2_config import Sam2Config
from pixelis_fast.tools_trt.models.sam2_prompts import BOX_END, BOX_START, EMPTY, NO_POINT
from pixelis_fast.tools_trt.results import ToolInputError

Slot = tuple[float, float, float]
"""x, y and label."""


@dataclass(frozen=True)
class Prompt:
    """What to segment.

    Example:
        Prompt(points_px=((40, 30), (90, 80)), labels=(1, 0), box_px=(10, 10, 120, 90))
    """

    points_px: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    """1 on the object, 0 beside it; one for each point."""
    box_px: tuple[float, float, float, float] | None = None
    mask: Tensor | None = None
    """Logits (h, w) of an earlier answer, to be refined."""

    def __post_init__(self) -> None:
        numbers = [number for point in self.points_px for number in point] + [*(self.box_px or ())]
        if len(self.points_px) != len(self.labels) or set(self.labels) - {0, 1}:
            raise ToolInputError(
                f"prompt: expected a label 0 or 1 for each of {len(self.points_px)} points, got "
                f"{self.labels}"
            )
        if not all(math.isfinite(number) for number in numbers):
            raise ToolInputError(f"prompt: expected finite numbers, got {numbers}")
        if not numbers and self.mask is None:
            raise ToolInputError("prompt: expected points, a box or a mask, got none of them")

    @property
    def is_ambiguous(self) -> bool:
        """A single click may mean a thing or its part; a box, a mask or more clicks say which."""
        return len(self.points_px) == 1 and self.box_px is None and self.mask is None

    def slots(self) -> list[Slot]:
        """A box's corners first, then the points, then the slot of no point."""
        slots: list[Slot] = []
        if self.box_px is not None:
            x0, y0, x1, y1 = self.box_px
            slots += [(x0, y0, BOX_START), (x1, y1, BOX_END)]
        slots += [(x, y, label) for (x, y), label in zip(self.points_px, self.labels, strict=True)]
        return [*slots, (0.0, 0.0, NO_POINT)] if slots else []


def prompt_tensors(
    prompts: Sequence[Prompt], config: Sam2Config, *, size: tuple[int, int], device: torch.device
) -> dict[str, Tensor]:
    """The decoder's inputs for prompts in pixels of a picture of `size` (height, width)."""
    if not prompts:
        raise ToolInputError("prompts: expected at least one, got none")
    by_prompt = [prompt.slots() for prompt in prompts]
    num_slots = max(1, *map(len, by_prompt))
    filled = [[*slots, *[(0.0, 0.0, EMPTY)] * (num_slots - len(slots))] for slots in by_prompt]
    slots_BP3 = torch.tensor(filled, dtype=torch.float32, device=device)
    height, width = size
    scale = torch.tensor([config.side / width, config.side / height], device=device)
    masks = [_mask(prompt.mask, config, device=device) for prompt in prompts]
    has_mask = [[float(prompt.mask is not None)] for prompt in prompts]
    return {
        "points_BP2": slots_BP3[..., :2] * scale,
        "labels_BP": slots_BP3[..., 2].contiguous(),
        "mask_B1hw": torch.stack(masks)[:, None],
        "has_mask_B1": torch.tensor(has_mask, device=device),
    }


def _mask(mask_hw: Tensor | None, config: Sam2Config, *, device: torch.device) -> Tensor:
    square = (config.mask_side, config.mask_side)
    if mask_hw is None:
        return torch.zeros(square, device=device)
    if mask_hw.shape != square or not mask_hw.is_floating_point() or not mask_hw.isfinite().all():
        raise ToolInputError(
            f"prompt mask: expected finite logits of {square}, got {tuple(mask_hw.shape)} of "
            f"{mask_hw.dtype}"
        )
    return mask_hw.to(device, torch.float32)
