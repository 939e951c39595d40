"""properties: what a masked region measures: area, box, centre, colour, direction.

The mask comes from an earlier tool, as run lengths over the media's pixels; the statistics are one
pass in C++. Knows nothing of how the mask was made.
"""

from __future__ import annotations

import numpy as np

from pixelis_fast.kernels.region import region_properties
from pixelis_fast.tools_trt.color_names import color_name
from pixelis_fast.tools_trt.geometry import px_to_box, px_to_point, shown
from pixelis_fast.tools_trt.results import PropertiesResult, RleMask, ToolInputError
from pixelis_fast.tools_trt.rle import check_mask, decode_mask
from pixelis_fast.tools_trt.store import MediaInfo, MediaStore
from pixelis_fast.tools_trt.timing import StageClock


class Properties:
    """The tool.

    Example:
        properties = Properties(store)
        print(properties(photo.id, segmentation.mask).color_name)
    """

    def __init__(self, store: MediaStore) -> None:
        self._store = store

    def __call__(
        self, media_id: str, mask: RleMask, *, time_s: float | None = None
    ) -> PropertiesResult:
        """Measures the mask on the image, or on the video's frame at a time."""
        clock = StageClock()
        with clock.stage("pre"):
            info = self._store.info(media_id)
            mask_HW = _mask_of(mask, info)
            image_HWC = self._store.frame(media_id, time_s)
        with clock.stage("run"):
            region = region_properties(mask_HW, image_HWC)
        with clock.stage("post"):
            red, green, blue = (round(value) for value in region.mean_rgb)
            name = color_name(region.mean_rgb)
            # The kernel counts from the first pixel's centre, the frame from its edge.
            x, y = (value + 0.5 for value in region.centroid_px)
        return PropertiesResult(
            engine="cpu:region",
            degraded=None,
            stage_ms=clock.stage_ms(),
            area_px=region.area_px,
            area_permille=region.area_px * 1000 / (info.width * info.height),
            box=px_to_box(region.box_px, info.width, info.height),
            centroid=px_to_point(x, y, info.width, info.height),
            color_rgb=(red, green, blue),
            color_name=name,
            orientation_deg=region.orientation_deg,
            elongation=region.elongation,
        )


def _mask_of(mask: RleMask, info: MediaInfo) -> np.ndarray:
    """Boolean H x W; ToolInputError unless it fits the media and covers at least one pixel."""
    size = check_mask(mask)["size"]
    if size != [info.height, info.width]:
        raise ToolInputError(
            f"mask: expected size {[info.height, info.width]} of the media, got {shown(size)}"
        )
    mask_HW = np.ascontiguousarray(decode_mask(mask))
    if not mask_HW.any():
        raise ToolInputError("mask: expected at least one pixel, got an empty mask")
    return mask_HW
