"""One decoded frame in its codec's own pixel format, half the bytes of RGB, and views of it.

`rgb` is the frame as a player shows it. `small` reduces before it converts colours, which is what
temporal searches look at: many frames, few pixels. Knows no video and no cache.

Shapes: H, W = frame, upright; h, w = small frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from pixelis_fast.tools_trt.pixels.shrink import half, shrink
from pixelis_fast.tools_trt.results import ToolInputError

PxBox = tuple[int, int, int, int]


@dataclass(frozen=True)
class DecodedFrame:
    """A frame and the upright size its video promises.

    Example:
        DecodedFrame(frame, 640, 272).small((0, 0, 640, 272), (96, 41), VideoReformatter())
    """

    frame: Any
    width: int
    height: int

    @property
    def nbytes(self) -> int:
        return plane_bytes(self.frame)

    def rgb(self) -> np.ndarray:
        """RGB uint8 HWC."""
        # The frame's own reformatter would stay with it, and it is not safe to share.
        image_HWC = VideoReformatter().reformat(self.frame, format="rgb24").to_ndarray()
        quarter_turns = round(self.frame.rotation / 90) % 4
        upright = np.ascontiguousarray(np.rot90(image_HWC, quarter_turns))
        if upright.shape != (self.height, self.width, 3):
            raise ToolInputError(
                f"video: expected frames of {self.width}x{self.height}, got "
                f"{upright.shape[1]}x{upright.shape[0]}"
            )
        return upright

    def small(
        self, box_px: PxBox, size: tuple[int, int], reformatter: VideoReformatter
    ) -> np.ndarray:
        """RGB uint8 hwC of a box at (width, height); the reformatter serves many frames in turn."""
        x0, y0, x1, y1 = box_px
        if self._halves_to(box_px, size):
            return self._small_from_planes(box_px, size, reformatter)
        return cv2.resize(self.rgb()[y0:y1, x0:x1], size, interpolation=cv2.INTER_AREA)

    def _halves_to(self, box_px: PxBox, size: tuple[int, int]) -> bool:
        """Whether the planes hold enough: upright 4:2:0, and colour at least as fine as asked."""
        x0, y0, x1, y1 = box_px
        fine = (x1 - x0) // 2 - 1 >= size[0] and (y1 - y0) // 2 - 1 >= size[1]
        shown = (self.frame.width, self.frame.height) == (self.width, self.height)
        return fine and shown and self.frame.format.name == "yuv420p" and not self.frame.rotation

    def _small_from_planes(
        self, box_px: PxBox, size: tuple[int, int], reformatter: VideoReformatter
    ) -> np.ndarray:
        x0, y0, x1, y1 = (value // 2 for value in box_px)
        luma, *chroma = map(_pixels, self.frame.planes)
        parts = [half(luma[2 * y0 : 2 * y1, 2 * x0 : 2 * x1])]
        parts += [plane[y0:y1, x0:x1] for plane in chroma]
        planes_Chw = np.stack([shrink(part, size) for part in parts])
        reduced = VideoFrame.from_ndarray(planes_Chw, format="yuv444p")
        reduced.colorspace = self.frame.colorspace
        reduced.color_range = self.frame.color_range
        return reformatter.reformat(reduced, format="rgb24").to_ndarray()


def plane_bytes(frame: Any) -> int:
    """Bytes a decoded frame holds in memory."""
    return sum(plane.buffer_size for plane in frame.planes)


def _pixels(plane: Any) -> np.ndarray:
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : plane.width]
