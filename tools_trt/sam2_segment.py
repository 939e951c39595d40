"""SAM 2 as a segment engine: mask logits of a point or a box, resized to the picture.

The three candidates of a click compete by their predicted IoU; a box gives one. The encoder's
work comes from `Sam2` and its cache.

Shapes: H, W = picture; M = candidate masks.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pixelis_fast.tools_trt.sam2 import ImageFeatures, PxBox, PxPoint, Sam2


class Sam2Segment:
    """Mask of the object under a point or in a box."""

    def __init__(self, sam2: Sam2) -> None:
        self.sam2 = sam2
        self.name, self.degraded = sam2.name, sam2.degraded

    def segment(
        self,
        image_HWC: np.ndarray,
        *,
        point_px: PxPoint | None = None,
        box_px: PxBox | None = None,
        key: str | None = None,
    ) -> tuple[np.ndarray, float]:
        """(mask_HW of bool, predicted IoU)."""
        logits_HW, score = self.logits(image_HWC, point_px=point_px, box_px=box_px, key=key)
        return (logits_HW > 0).cpu().numpy(), score

    @torch.inference_mode()
    def logits(
        self,
        image_HWC: np.ndarray,
        *,
        point_px: PxPoint | None = None,
        box_px: PxBox | None = None,
        key: str | None = None,
    ) -> tuple[Tensor, float]:
        """(mask logits at the picture's size, predicted IoU) of the best candidate."""
        size = image_HWC.shape[:2]
        points, labels = self.sam2.prompt(size=size, point_px=point_px, box_px=box_px)
        features = self.sam2.encode(image_HWC, key=key)
        # A click is ambiguous and gets three candidates; a box is not and gets one.
        low_M, scores_M = self._decode(features, points, labels, several=point_px is not None)
        best = int(scores_M.argmax())
        full = functional.interpolate(low_M[None, best : best + 1], size, mode="bilinear")
        return full[0, 0], float(scores_M[best])

    def _decode(
        self, features: ImageFeatures, points: Tensor, labels: Tensor, *, several: bool
    ) -> tuple[Tensor, Tensor]:
        model = self.sam2.model
        sparse, dense = model.prompt_encoder(
            input_points=points, input_labels=labels, input_boxes=None, input_masks=None
        )
        *fine, coarse = features.maps
        masks, scores, _, _ = model.mask_decoder(
            image_embeddings=coarse + model.no_memory_embedding.view(1, -1, 1, 1),
            image_positional_embeddings=model.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=several,
            high_resolution_features=list(fine),
        )
        return masks[0, 0], scores[0, 0]
