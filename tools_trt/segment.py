"""The segment tool: a point or a box on a picture or frame -> the object's mask.

Checks the call, fetches pixels, runs one engine, describes the mask in 0..1000 units. Which engine
runs (SAM 2, or the classical one without weights) is the caller's choice and in the result.

Shapes: H, W = picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pixelis_fast.tools_trt.classical.grabcut import mask_box
from pixelis_fast.tools_trt.geometry import box_to_px, point_to_px, px_to_box, shown
from pixelis_fast.tools_trt.results import SegmentResult, ToolError, ToolInputError
from pixelis_fast.tools_trt.rle import encode_mask
from pixelis_fast.tools_trt.sam2.prompt import Prompt
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


class PromptsEngine(SegmentEngine, Protocol):
    """A segment engine that also decodes several prompts on one picture at once."""

    def segment_all(
        self, image_HWC: np.ndarray, prompts: Sequence[Prompt], *, key: str | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(masks_BHW of bool, scores_B)."""


@dataclass(frozen=True)
class SegmentRequest:
    """A call that was checked, its prompt in pixels."""

    media_id: str
    time_s: float | None
    point_px: tuple[int, int] | None
    box_px: tuple[int, int, int, int] | None

    def as_prompt(self) -> Prompt:
        points_px = () if self.point_px is None else (self.point_px,)
        return Prompt(points_px=points_px, labels=(1,) * len(points_px), box_px=self.box_px)


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
        clock = StageClock()
        with clock.stage("pre"):
            request = self.request(media_id, point=point, box=box, time_s=time_s)
            image_HWC, key = self._pixels(request)
        with clock.stage("run"):
            mask_HW, score = self.engine.segment(
                image_HWC, point_px=request.point_px, box_px=request.box_px, key=key
            )
        return self._result(mask_HW, score, clock)

    def request(
        self,
        media_id: str,
        *,
        point: Sequence[int] | None = None,
        box: Sequence[int] | None = None,
        time_s: float | None = None,
    ) -> SegmentRequest:
        """The call checked; ToolInputError says what is wrong with it."""
        if (point is None) == (box is None):
            got = f"{shown(point)} and {shown(box)}"
            raise ToolInputError(f"segment: expected a point or a box, got {got}")
        info = self.store.info(media_id)
        size = info.width, info.height
        point_px = point_to_px(point, *size) if point is not None else None
        box_px = box_to_px(box, *size) if box is not None else None
        return SegmentRequest(media_id, time_s, point_px, box_px)

    def together(
        self, engine: PromptsEngine, requests: Sequence[SegmentRequest]
    ) -> list[SegmentResult | ToolError]:
        """Requests on the same pixels, decoded at once; each gets its result or its refusal."""
        clock = StageClock()
        with clock.stage("pre"):
            image_HWC, key = self._pixels(requests[0])
            prompts = [request.as_prompt() for request in requests]
        with clock.stage("run"):
            masks_BHW, scores_B = engine.segment_all(image_HWC, prompts, key=key)
        results: list[SegmentResult | ToolError] = []
        for mask_HW, score in zip(masks_BHW, scores_B.tolist(), strict=True):
            try:
                results.append(self._result(mask_HW, score, clock))
            except ToolError as error:
                results.append(error)
        return results

    def _pixels(self, request: SegmentRequest) -> tuple[np.ndarray, str]:
        image_HWC = self.store.frame(request.media_id, request.time_s)
        return image_HWC, self.store.pixels_id(request.media_id, request.time_s)

    def _result(self, mask_HW: np.ndarray, score: float, clock: StageClock) -> SegmentResult:
        if not mask_HW.any():
            raise ToolError("segment: found no object at the prompt")
        with clock.stage("post"):
            rle = encode_mask(mask_HW)
            around = px_to_box(mask_box(mask_HW), mask_HW.shape[1], mask_HW.shape[0])
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
