"""SAM 2 as a track engine: the video graph's memory, fed frame by frame with cached features.

Frames are those the tool visits, in order; the first carries the box. Features come from `Sam2`
and its cache, so a frame that was segmented before is not encoded again.

Shapes: H, W = frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import Sam2VideoInferenceSession, Sam2VideoModel

from pixelis_fast.tools_trt.results import MissingWeightsError
from pixelis_fast.tools_trt.sam2 import ImageFeatures, PxBox, Sam2


class EncodedSession(Sam2VideoInferenceSession):
    """A session whose frames come as features; the number of frames is known from the start.

    The known length matters: it scales the time code of the object pointers.
    """

    def __init__(self, num_frames: int, device: torch.device) -> None:
        super().__init__(
            inference_device=device, inference_state_device=device, dtype=torch.float32
        )
        self._num_frames = num_frames

    @property
    def num_frames(self) -> int:
        return self._num_frames


class Sam2Track:
    """Follows the object of a box through frames with SAM 2's memory."""

    def __init__(self, sam2: Sam2) -> None:
        if not isinstance(sam2.model, Sam2VideoModel):
            raise MissingWeightsError(
                f"sam2 track: expected weights with a memory (sam2_video), got {sam2.name}"
            )
        self.sam2 = sam2
        self.name, self.degraded = sam2.name, sam2.degraded

    def track(
        self, frames: Iterable[np.ndarray], box_px: PxBox, *, keys: Sequence[str]
    ) -> Iterator[tuple[np.ndarray | None, float]]:
        """(mask_HW or None where the object is lost, probability that it is visible) per frame.

        The box is of the first frame; keys has one content key per frame.
        """
        for logits_HW, score in self.logits(frames, box_px, keys=keys):
            mask_HW = (logits_HW > 0).cpu().numpy()
            yield (mask_HW if mask_HW.any() else None), score

    def logits(
        self, frames: Iterable[np.ndarray], box_px: PxBox, *, keys: Sequence[str]
    ) -> Iterator[tuple[Tensor, float]]:
        """(mask logits at the frame's size, probability that the object is visible)."""
        session = EncodedSession(len(keys), self.sam2.device)
        for number, (frame_HWC, key) in enumerate(zip(frames, keys, strict=True)):
            size = frame_HWC.shape[:2]
            if number == 0:
                self._add_box(session, box_px, size)
            output = self._step(session, number, self.sam2.encode(frame_HWC, key=key))
            full = functional.interpolate(output.pred_masks.float(), size, mode="bilinear")
            yield full[0, 0], float(output.object_score_logits.sigmoid())

    def _add_box(self, session: EncodedSession, box_px: PxBox, size: tuple[int, int]) -> None:
        points, labels = self.sam2.prompt(size=size, point_px=None, box_px=box_px)
        index = session.obj_id_to_idx(0)
        session.add_point_inputs(index, 0, {"point_coords": points, "point_labels": labels})
        session.obj_with_new_inputs = [0]

    @torch.inference_mode()
    def _step(self, session: EncodedSession, number: int, features: ImageFeatures) -> Any:
        flat = [level.flatten(2).permute(2, 0, 1) for level in features.maps]
        coarse = features.maps[-1]
        neck = self.sam2.model.vision_encoder.neck
        positions = neck.position_encoding(coarse.shape, coarse.device, coarse.dtype)
        positions = positions.flatten(2).permute(2, 0, 1)
        session.cache.cache_vision_features(
            number, {"vision_feats": flat, "vision_pos_embeds": [positions]}
        )
        return self.sam2.model(inference_session=session, frame_idx=number)
