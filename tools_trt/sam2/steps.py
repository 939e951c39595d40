"""One frame's work on tensors: decode prompts, attend to the banks, encode a memory.

What joins SAM 2's graphs in a video: which mask counts, what stands for an absent object, when a
mask is binarised. Source of the rules: `SAM2Base` of the sam2 package with the settings of
`build_sam2_video_predictor`. Knows no frame numbers.

Shapes: B = objects; g = side of the coarse grid, T = g*g; m = side of the low-resolution masks;
S = model side; C = channels; K = memory channels; P = point slots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from pixelis_fast.tools_trt.models.sam2_choice import best_candidate, chosen, stable_choice
from pixelis_fast.tools_trt.models.sam2_layers import to_maps, to_tokens
from pixelis_fast.tools_trt.models.sam2_memory import MASK_BIAS, MASK_SCALE
from pixelis_fast.tools_trt.results import MissingWeightsError
from pixelis_fast.tools_trt.sam2.bank import MemoryTokens, PositionCodes
from pixelis_fast.tools_trt.sam2.bank_size import BankSize, fitting_bank
from pixelis_fast.tools_trt.sam2.clicks import is_ambiguous, no_clicks
from pixelis_fast.tools_trt.sam2.network import ImageFeatures, Sam2
from pixelis_fast.tools_trt.sam2.prompt import Prompt, prompt_tensors

ABSENT_LOGIT = -1024.0
PREVIOUS_LIMIT = 32.0
"""Earlier mask logits are clamped to this where they join new clicks."""


@dataclass(frozen=True)
class Decoded:
    """One mask per object."""

    logits_B1mm: Tensor
    pointer_BC: Tensor
    score_B1: Tensor
    """Logit that the object is visible."""


class VideoSteps:
    """The graphs behind the encoder, called with features."""

    def __init__(self, sam2: Sam2) -> None:
        self.sam2, self.config, self.device = sam2, sam2.config, sam2.device
        if sam2.graphs.memory is None:
            raise MissingWeightsError(
                f"sam2 video: expected weights with a memory, got {sam2.name}"
            )
        self.memory = sam2.graphs.memory

    def codes(self, longest: int) -> PositionCodes:
        """Places in time and space; pointers' distances count as shares of the longest."""

        def pointers(backs: Sequence[int]) -> Tensor:
            backs_N = torch.tensor(backs, dtype=torch.float32, device=self.device)
            return self.memory.pointer_positions(backs_N, longest=max(longest, 1))

        by_time = [self.memory.position_of(back)[0] for back in range(self.config.memory_frames)]
        return PositionCodes(torch.stack(by_time).float(), pointers)

    def without_memory(self, features: ImageFeatures) -> Tensor:
        """Coarse features of a frame that starts a track."""
        return features.maps[-1] + self.sam2.graphs.no_memory

    def bank_size(self, *, frames: int, pointers: int) -> BankSize:
        """What memory attention takes for these: a compiled bank, or in eager mode just enough."""
        if self.sam2.compiles_memory:
            return fitting_bank(self.config, frames=frames, pointers=pointers)
        return BankSize(frames, max(pointers, self.config.pointer_slots))

    def with_memory(
        self, features: ImageFeatures, tokens: MemoryTokens, *, size: BankSize
    ) -> Tensor:
        """(B, C, g, g): what the frame shows, seen with each object's bank."""
        bank = {
            "current_1LC": to_tokens(features.maps[-1]),
            "current_position_1LC": self.memory.frame_positions,
            "memory_BMK": tokens.memory_BMK,
            "memory_position_BMK": tokens.position_BMK,
            "key_bias_B11M": tokens.key_bias_B11M,
        }
        if self.sam2.compiles_memory or size.pointers == self.config.pointer_slots:
            (seen_BTC,) = self.sam2.run("memory_attention", **bank)
        else:
            # The eager session reads frames off the rows, so its pointers are the model's number.
            pointers = size.pointer_tokens(self.config)
            seen_BTC = self.memory.attention.for_bank(size.frames, pointer_tokens=pointers)(**bank)
        return to_maps(seen_BTC, self.config.coarse_side)

    def follow(self, features: ImageFeatures, coarse_BCgg: Tensor) -> Decoded:
        """Masks of objects without a prompt on this frame."""
        prompt = no_clicks(self.config, len(coarse_BCgg), device=self.device)
        return self._decode(features, coarse_BCgg, prompt, is_clear=False)

    def click(
        self,
        features: ImageFeatures,
        coarse_1Cgg: Tensor,
        clicks: Prompt,
        *,
        size: tuple[int, int],
        previous_1mm: Tensor | None,
    ) -> Decoded:
        """The mask of one object under clicks; an earlier mask of the frame joins in."""
        is_clear = not is_ambiguous(clicks)
        if previous_1mm is not None:
            clamped = previous_1mm[0].clamp(-PREVIOUS_LIMIT, PREVIOUS_LIMIT)
            clicks = replace(clicks, mask=clamped)
        prompt = prompt_tensors([clicks], self.config, size=size, device=self.device)
        return self._decode(features, coarse_1Cgg, prompt, is_clear=is_clear)

    def decode_mask(self, features: ImageFeatures, mask_11SS: Tensor) -> Decoded:
        """A given mask as it is; the decoder only makes its pointer."""
        prompt = no_clicks(self.config, 1, device=self.device)
        prompt["mask_B1hw"] = self.memory.mask_to_prompt(mask_11SS)
        prompt["has_mask_B1"] = torch.ones_like(prompt["has_mask_B1"])
        found = self._decode(features, features.maps[-1], prompt, is_clear=True)
        logits_11SS = mask_11SS * MASK_SCALE + MASK_BIAS
        score_11 = mask_11SS.flatten(1).any(dim=1, keepdim=True) * MASK_SCALE + MASK_BIAS
        small = (self.config.mask_side, self.config.mask_side)
        logits_11mm = functional.interpolate(logits_11SS, small, mode="bilinear", antialias=True)
        pointer_1C = self.memory.visible_or_not(found.pointer_BC, score_11)
        return Decoded(logits_11mm, pointer_1C, score_11)

    def remember(
        self, features: ImageFeatures, logits_B1mm: Tensor, score_B1: Tensor, *, prompted: bool
    ) -> Tensor:
        """(B, T, K) to keep; a prompted frame's mask is binarised."""
        square = (self.config.side, self.config.side)
        is_clicked_B1 = torch.full_like(score_B1, float(prompted))
        (memory_BKgg,) = self.sam2.run(
            "memory_encoder",
            coarse_BCgg=features.maps[-1],
            mask_logits_B1SS=resize(logits_B1mm, square),
            is_clicked_B1=is_clicked_B1,
            object_score_B1=score_B1,
        )
        return to_tokens(memory_BKgg)

    def _decode(
        self,
        features: ImageFeatures,
        coarse_BCgg: Tensor,
        prompt: Mapping[str, Tensor],
        *,
        is_clear: bool,
    ) -> Decoded:
        fine_BChw, middle_BChw, _ = features.maps
        masks_B4mm, ious_B4, pointers_B4C, score_B1 = self.sam2.run(
            "decoder",
            coarse_BCgg=coarse_BCgg,
            fine_BChw=fine_BChw,
            middle_BChw=middle_BChw,
            **prompt,
        )
        mask_B = stable_choice(masks_B4mm, ious_B4) if is_clear else best_candidate(ious_B4)
        # The pointer is that of mask 0 even where an unstable mask 0 was replaced.
        pointer_B = torch.zeros_like(mask_B) if is_clear else mask_B
        logits_B1mm = chosen(masks_B4mm, mask_B)[:, None]
        logits_B1mm = torch.where(score_B1[..., None, None] > 0, logits_B1mm, ABSENT_LOGIT)
        pointer_BC = self.memory.visible_or_not(chosen(pointers_B4C, pointer_B), score_B1)
        return Decoded(logits_B1mm, pointer_BC, score_B1)


def given_mask(mask_HW: Tensor, side: int) -> Tensor:
    """A mask of any size as 0.0 and 1.0 at the model's side, (1, 1, S, S)."""
    mask_11HW = mask_HW[None, None].float()
    if mask_HW.shape == (side, side):
        return mask_11HW
    square = functional.interpolate(mask_11HW, (side, side), mode="bilinear", antialias=True)
    return (square >= 0.5).float()


def resize(logits_B1mm: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, corners not aligned."""
    return functional.interpolate(logits_B1mm, size, mode="bilinear")
