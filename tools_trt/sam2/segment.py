"""SAM 2 as a segment engine: masks for prompts on a picture, at the picture's size.

The three candidates of a single click compete by their predicted IoU; any clearer prompt gives one
mask, or its best candidate where that mask is unstable. The encoder's work comes from `Sam2` and
its cache; all prompts on a picture are decoded together.

Shapes: H, W = picture; B = prompts; M = masks of one prompt, 3 or 1; h, w = low resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pixelis_fast.tools_trt.models.sam2_choice import best_candidate, chosen, stable_choice
from pixelis_fast.tools_trt.sam2.network import ImageFeatures, PxBox, PxPoint, Sam2Engine
from pixelis_fast.tools_trt.sam2.prompt import Prompt, prompt_tensors
from pixelis_fast.tools_trt.sam2.specs import DECODE_BATCH


@dataclass(frozen=True)
class Candidates:
    """All that the decoder says about each prompt."""

    logits_B4hw: Tensor
    """Low resolution: mask 0 for clear prompts, 1 to 3 for ambiguous ones."""
    ious_B4: Tensor
    """Predicted IoUs."""
    object_score_B1: Tensor
    """Logit that what was meant is in the picture at all."""

    def several(self) -> tuple[Tensor, Tensor]:
        """(logits_BMhw, ious_BM) of the three candidates; "multimask output" in the original."""
        return self.logits_B4hw[:, 1:], self.ious_B4[:, 1:]

    def single(self) -> tuple[Tensor, Tensor]:
        """(logits_BMhw, ious_BM) of the one mask of each prompt, chosen by its stability."""
        return self._of(stable_choice(self.logits_B4hw, self.ious_B4))

    def best(self) -> tuple[Tensor, Tensor]:
        """(logits_BMhw, ious_BM) of each prompt's candidate with the highest predicted IoU."""
        return self._of(best_candidate(self.ious_B4))

    def _of(self, index_B: Tensor) -> tuple[Tensor, Tensor]:
        return (
            chosen(self.logits_B4hw, index_B)[:, None],
            chosen(self.ious_B4, index_B)[:, None],
        )


class Sam2Segment(Sam2Engine):
    """Masks of the objects that prompts point at.

    Example:
        engine = Sam2Segment(Sam2.load("sam2.1_hiera_tiny.pt"))
        mask_HW, score = engine.segment(image_HWC, box_px=(10, 20, 200, 180))
        masks_BHW, scores_B = engine.segment_all(image_HWC, [Prompt(box_px=b) for b in boxes])
    """

    def segment(
        self,
        image_HWC: np.ndarray,
        *,
        point_px: PxPoint | None = None,
        box_px: PxBox | None = None,
        key: str | None = None,
    ) -> tuple[np.ndarray, float]:
        """(mask_HW of bool, predicted IoU) of the object under a point or in a box."""
        if (point_px is None) == (box_px is None):
            raise ValueError(f"prompt: expected a point or a box, got {point_px} and {box_px}")
        points = () if point_px is None else (point_px,)
        prompt = Prompt(points_px=points, labels=(1,) * len(points), box_px=box_px)
        masks_BHW, scores_B = self.segment_all(image_HWC, [prompt], key=key)
        return masks_BHW[0], float(scores_B[0])

    def segment_all(
        self, image_HWC: np.ndarray, prompts: Sequence[Prompt], *, key: str | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(masks_BHW of bool, predicted IoUs) of any prompts on one picture."""
        candidates = self.candidates(image_HWC, prompts, key=key)
        is_ambiguous_B = torch.tensor([prompt.is_ambiguous for prompt in prompts])
        (best_B1hw, best_B1), (single_B1hw, single_B1) = candidates.best(), candidates.single()
        is_ambiguous_B1 = is_ambiguous_B[:, None].to(best_B1.device)
        logits_B1hw = torch.where(is_ambiguous_B1[..., None, None], best_B1hw, single_B1hw)
        ious_B1 = torch.where(is_ambiguous_B1, best_B1, single_B1)
        masks_B1HW = at_size(logits_B1hw, image_HWC.shape[:2]) > 0
        return masks_B1HW[:, 0].cpu().numpy(), ious_B1[:, 0].cpu().numpy()

    def candidates(
        self, image_HWC: np.ndarray, prompts: Sequence[Prompt], *, key: str | None = None
    ) -> Candidates:
        """The decoder's four masks for every prompt, at low resolution."""
        size = image_HWC.shape[:2]
        # Checked before the picture is encoded.
        asked = prompt_tensors(prompts, self.sam2.config, size=size, device=self.sam2.device)
        features = self.sam2.encode(image_HWC, key=key)
        parts = [
            self._decode(
                features, {name: x[start : start + DECODE_BATCH] for name, x in asked.items()}
            )
            for start in range(0, len(prompts), DECODE_BATCH)
        ]
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _decode(self, features: ImageFeatures, asked: dict[str, Tensor]) -> Candidates:
        fine, middle, coarse = features.maps
        masks_B4hw, ious_B4, _, object_score_B1 = self.sam2.run(
            "decoder",
            coarse_BCgg=coarse + self.sam2.graphs.no_memory,
            fine_BChw=fine,
            middle_BChw=middle,
            **asked,
        )
        return Candidates(masks_B4hw, ious_B4, object_score_B1)


def _joined(parts: Sequence[Candidates]) -> Candidates:
    return Candidates(
        torch.cat([part.logits_B4hw for part in parts]),
        torch.cat([part.ious_B4 for part in parts]),
        torch.cat([part.object_score_B1 for part in parts]),
    )


def at_size(logits_BMhw: Tensor, size: tuple[int, ...]) -> Tensor:
    """Low-resolution logits at a picture's (height, width)."""
    return functional.interpolate(logits_BMhw, size, mode="bilinear")
