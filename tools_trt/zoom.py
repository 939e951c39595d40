"""zoom: part of a picture at its original resolution, brought to a size the policy sees well.

The box is cut to the frame; a box thinner than a few pixels grows around its centre, because a
sliver shows nothing. The result says which box was really shown, and `to_original` maps what is
found on the crop back. Knows nothing of vision tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pixelis_fast.tools_trt.geometry import UNITS, box_to_px, check_box, px_to_box
from pixelis_fast.tools_trt.results import Box, ToolInputError, ZoomResult
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
        if not 1 <= self._min_side <= max_side:
            raise ToolInputError(
                f"max_side: expected at least min_side {self._min_side}, got {max_side}"
            )
        clock = StageClock()
        with clock.stage("pre"):
            info = self._store.info(media_id)
            shown = shown_box(box, info.width, info.height)
            width, height = self._size(box_to_px(shown, info.width, info.height), max_side)
            crop = self._store.add_crop(media_id, shown, time_s, width, height, FILTER)
            self._store.frame(media_id, time_s)
        with clock.stage("run"):
            self._store.image(crop.id)
        return ZoomResult(
            engine=f"cpu:{FILTER}",
            degraded=None,
            stage_ms=clock.stage_ms(),
            media_id=crop.id,
            box=shown,
            width=width,
            height=height,
        )

    def _size(self, box_px: tuple[int, int, int, int], max_side: int) -> tuple[int, int]:
        """Keeps the aspect ratio."""
        width, height = box_px[2] - box_px[0], box_px[3] - box_px[1]
        long_side = max(width, height)
        ratio = min(max(long_side, self._min_side), max_side) / long_side
        return max(round(width * ratio), 1), max(round(height * ratio), 1)


def shown_box(box: Sequence[int], width: int, height: int) -> Box:
    """The box cut to the frame and grown to a useful size."""
    if len(box) != 4:
        raise ToolInputError(f"box: expected [x0, y0, x1, y1], got {list(box)}")
    x0, y0, x1, y1 = check_box([min(max(value, 0), UNITS) for value in box])
    width_px, height_px = (x1 - x0) * width / UNITS, (y1 - y0) * height / UNITS
    least_width_px = max(MIN_CROP_PX, height_px / MAX_ASPECT)
    least_height_px = max(MIN_CROP_PX, width_px / MAX_ASPECT)
    x0, x1 = _grow(x0, x1, least_width_px * UNITS / width)
    y0, y1 = _grow(y0, y1, least_height_px * UNITS / height)
    return x0, y0, x1, y1


def to_original(store: MediaStore, media_id: str, box: Sequence[int]) -> tuple[str, Box]:
    """A box on a crop as a box on the picture or frame the crop was cut from, with its id."""
    recipe = store.recipe(media_id)
    if recipe is None:
        return media_id, check_box(box)
    parent = store.info(recipe.parent_id)
    left, top, right, bottom = box_to_px(recipe.box, parent.width, parent.height)
    x0, y0, x1, y1 = (value / UNITS for value in check_box(box))
    width, height = right - left, bottom - top
    box_px = (left + x0 * width, top + y0 * height, left + x1 * width, top + y1 * height)
    return to_original(store, recipe.parent_id, px_to_box(box_px, parent.width, parent.height))


def _grow(low: int, high: int, least: float) -> tuple[int, int]:
    """Widens low..high around its middle to `least` units, inside the frame."""
    missing = min(-int(-least // 1), UNITS) - (high - low)
    if missing <= 0:
        return low, high
    start = min(max(low - missing // 2, 0), UNITS - (high - low) - missing)
    return start, start + (high - low) + missing
