"""zoom: part of a picture at its original resolution, brought to a size the policy sees well.

The box is cut to the frame; a box thinner than a few pixels grows around its centre, because a
sliver shows nothing. The result says which box was really shown and how pixels of the crop map to
pixels of the original, and `to_original` maps boxes back. Knows nothing of vision tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Final

from pixelis_fast.tools_trt.geometry import (
    UNITS,
    box_to_px,
    check_box,
    px_to_box,
    shown,
    whole_numbers,
)
from pixelis_fast.tools_trt.pixels.media import MAX_CROP_SIDE
from pixelis_fast.tools_trt.results import Affine, Box, ToolInputError, ZoomResult
from pixelis_fast.tools_trt.store import MediaStore
from pixelis_fast.tools_trt.timing import StageClock

FILTER: Final = "bicubic"
MIN_CROP_PX = 8
"""A crop shows at least this many pixels each way, if the frame has them."""
MAX_ASPECT = 16
"""A crop's long side over its short side, if the frame allows it."""


class Zoom:
    """The tool.

    Example:
        result = Zoom(store)(page.id, (100, 100, 400, 300))
        pixels_HWC = store.image(result.media_id)
    """

    def __init__(self, store: MediaStore, *, min_side: int = 448) -> None:
        if min_side < 1:
            raise ValueError(f"min_side: expected at least 1, got {min_side}")
        self._store = store
        self._min_side = min_side

    def __call__(
        self,
        media_id: str,
        box: Sequence[int],
        *,
        time_s: float | None = None,
        max_side: int = 1024,
    ) -> ZoomResult:
        """A crop whose long side measures `min_side`..`max_side` pixels."""
        if not isinstance(max_side, Integral) or not self._min_side <= max_side <= MAX_CROP_SIDE:
            raise ToolInputError(
                f"max_side: expected {self._min_side}..{MAX_CROP_SIDE}, got {shown(max_side)}"
            )
        clock = StageClock()
        with clock.stage("pre"):
            info = self._store.info(media_id)
            view = shown_box(box, info.width, info.height)
            width, height = self._size(box_to_px(view, info.width, info.height), max_side)
            crop = self._store.add_crop(media_id, view, time_s, width, height, FILTER)
            self._store.frame(media_id, time_s)
        with clock.stage("run"):
            self._store.image(crop.id)
        original_id, affine = affine_to_original(self._store, crop.id)
        return ZoomResult(
            engine=f"{self._store.resampler}:{FILTER}",
            degraded=None,
            stage_ms=clock.stage_ms(),
            media_id=crop.id,
            box=view,
            width=width,
            height=height,
            original_id=original_id,
            affine=affine,
        )

    def _size(self, box_px: tuple[int, int, int, int], max_side: int) -> tuple[int, int]:
        """Keeps the aspect ratio."""
        width, height = box_px[2] - box_px[0], box_px[3] - box_px[1]
        long_side = max(width, height)
        ratio = min(max(long_side, self._min_side), max_side) / long_side
        return max(round(width * ratio), 1), max(round(height * ratio), 1)


def shown_box(box: Sequence[int], width: int, height: int) -> Box:
    """The box cut to the frame and grown to a useful size."""
    corners = whole_numbers(box, 4)
    if corners is None:
        raise ToolInputError(f"box: expected integers [x0, y0, x1, y1], got {shown(box)}")
    x0, y0, x1, y1 = check_box([min(max(value, 0), UNITS) for value in corners])
    width_px, height_px = (x1 - x0) * width / UNITS, (y1 - y0) * height / UNITS
    least_width_px = max(MIN_CROP_PX, height_px / MAX_ASPECT)
    least_height_px = max(MIN_CROP_PX, width_px / MAX_ASPECT)
    x0, x1 = _grow(x0, x1, least_width_px * UNITS / width)
    y0, y1 = _grow(y0, y1, least_height_px * UNITS / height)
    return x0, y0, x1, y1


def affine_to_original(store: MediaStore, media_id: str) -> tuple[str, Affine]:
    """The media a crop was cut from in the end, and the map of the crop's pixels to its pixels.

    x' = a*x + b*y + c, y' = d*x + e*y + f for rows (a, b, c) and (d, e, f); 0 is the left or upper
    edge of the first pixel. The identity for media that were added.
    """
    scale_x, scale_y, left, top = 1.0, 1.0, 0.0, 0.0
    while (recipe := store.recipe(media_id)) is not None:
        parent = store.info(recipe.parent_id)
        x0, y0, x1, y1 = box_to_px(recipe.box, parent.width, parent.height)
        step_x, step_y = (x1 - x0) / recipe.width, (y1 - y0) / recipe.height
        scale_x, scale_y = scale_x * step_x, scale_y * step_y
        left, top = x0 + step_x * left, y0 + step_y * top
        media_id = recipe.parent_id
    return media_id, ((scale_x, 0.0, left), (0.0, scale_y, top))


def to_original(store: MediaStore, media_id: str, box: Sequence[int]) -> tuple[str, Box]:
    """A box on a crop as a box on the picture or frame the crop was cut from, with its id."""
    crop = store.info(media_id)
    original_id, ((scale_x, _, left), (_, scale_y, top)) = affine_to_original(store, media_id)
    if original_id == media_id:
        return media_id, check_box(box)
    x0, y0, x1, y1 = (value / UNITS for value in check_box(box))
    across, down = scale_x * crop.width, scale_y * crop.height
    box_px = (left + x0 * across, top + y0 * down, left + x1 * across, top + y1 * down)
    original = store.info(original_id)
    return original_id, px_to_box(box_px, original.width, original.height)


def _grow(low: int, high: int, least: float) -> tuple[int, int]:
    """Widens low..high around its middle to `least` units, inside the frame."""
    missing = min(-int(-least // 1), UNITS) - (high - low)
    if missing <= 0:
        return low, high
    start = min(max(low - missing // 2, 0), UNITS - (high - low) - missing)
    return start, start + (high - low) + missing
