"""The segment tool: a point or a box on a picture or frame -> the object's mask.

Checks the call, fetches pixels, runs one engine, describes the mask in 0..1000 units. Which engine
runs (SAM 2, or the classical one without weights) is the caller's choice and in the result.

Shapes: H, W = picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from pixelis_fast.tools_trt.geometry import box_to_px, point_to_px, px_to_box
from pixelis_fast.tools_trt.grabcut import mask_box
from pixelis_fast.tools_trt.results import SegmentResult, ToolError, ToolInputError
from pixelis_fast.tools_trt.rle import encode_mask
from pixelis_fast.tools_trt.store import MediaStore
from pixelis_fast.tools_trt.timing import StageClock


class SegmentEngine(Protocol):
    """What turns a prompt in pixels into a mask."""

    @property
    def name(self) -> str: ...

    @property
    def degraded(self) -> str | None:
        """Why the engine is second best; None when it is not."""

    def segment(
        self,
        image_HWC: np.ndarray,
        *,
        point_px: tuple[int, int] | None = None,
        box_px: tuple[int, int, int, int] | None = None,
        key: str | None = None,
    ) -> tuple[np.ndarray, float]:
        """(mask_HW of bool, score 0..1); equal keys promise equal pixels."""


class Segment:
    """Segments what a prompt points at.

    Example:
        segment = Segment(store, ClassicalSegment())
        result = segment(coins.id, box=(60, 80, 180, 260))
    """

    def __init__(self, store: MediaStore, engine: SegmentEngine) -> None:
        self.store = store
        self.engine = engine

    def __call__(
        self,
        media_id: str,
        *,
        point: Sequence[int] | None = None,
        box: Sequence[int] | None = None,
        time_s: float | None = None,
    ) -> SegmentResult:
        if (point is None) == (box is None):
            raise ToolInputError(f"segment: expected a point or a box, got {point} and {box}")
        clock = StageClock()
        with clock.stage("pre"):
            info = self.store.info(media_id)
            size = info.width, info.height
            point_px = point_to_px(point, *size) if point is not None else None
            box_px = box_to_px(box, *size) if box is not None else None
            image_HWC = self.store.frame(media_id, time_s)
            key = self.store.pixels_id(media_id, time_s)
        with clock.stage("run"):
            mask_HW, score = self.engine.segment(
                image_HWC, point_px=point_px, box_px=box_px, key=key
            )
        if not mask_HW.any():
            raise ToolError("segment: found no object at the prompt")
        with clock.stage("post"):
            rle = encode_mask(mask_HW)
            around = px_to_box(mask_box(mask_HW), *size)
            permille = 1000 * float(mask_HW.mean())
        return SegmentResult(
            engine=self.engine.name,
            degraded=self.engine.degraded,
            stage_ms=clock.stage_ms(),
            mask=rle,
            box=around,
            area_permille=permille,
            score=score,
        )
