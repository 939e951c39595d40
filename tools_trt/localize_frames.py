"""Small copies of a video's frames by number: what every temporal search looks at first.

Frames are reduced before their colours are converted and kept, so a second search of the same
video decodes nothing. A box restricts the view. Knows no event.

Shapes: T = frames; h, w = small frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from av.video.reformatter import VideoReformatter

from pixelis_fast.tools_trt.geometry import box_to_px
from pixelis_fast.tools_trt.results import Box
from pixelis_fast.tools_trt.store import MediaStore

SMALL_SIDE = 96
"""Longer side of a small frame: an object of a tenth of the frame still covers 50 pixels."""
CHUNK_BYTES = 256 << 20
"""Full-size pixels decoded at once. A chunk may start decoding at a far keyframe: few are best."""


class SmallFrames:
    """Small frames of one video, or of one box in it."""

    def __init__(self, store: MediaStore, media_id: str, box: Box | None) -> None:
        self.store = store
        self.media_id = media_id
        self.index = store.index(media_id)
        info = store.info(media_id)
        whole = (0, 0, info.width, info.height)
        self.box_px = box_to_px(box, info.width, info.height) if box else whole
        x0, y0, x1, y1 = self.box_px
        scale = min(1.0, SMALL_SIDE / max(x1 - x0, y1 - y0))
        self.size = max(round((x1 - x0) * scale), 1), max(round((y1 - y0) * scale), 1)
        self.chunk = max(1, CHUNK_BYTES // (3 * info.width * info.height))
        self._kept: dict[int, np.ndarray] = {}

    @property
    def num_frames(self) -> int:
        return len(self.index.times_s)

    def __call__(self, numbers: Sequence[int]) -> np.ndarray:
        """(T, h, w, 3) of uint8."""
        missing = sorted({number for number in numbers if number not in self._kept})
        reformatter = VideoReformatter()
        decoded = self.store.decoded_frames(self.media_id, missing)
        for number, frame in zip(missing, decoded, strict=True):
            self._kept[number] = frame.small(self.box_px, self.size, reformatter)
        return np.stack([self._kept[number] for number in numbers])

    def full(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """Frames at their own size, never cut to the box, decoded chunk by chunk."""
        for start in range(0, len(numbers), self.chunk):
            chunk = numbers[start : start + self.chunk]
            yield from self.store.frames(self.media_id, [self.index.times_s[n] for n in chunk])

    def time_s(self, number: int) -> float:
        """Start of a frame; the number after the last frame gives the video's end."""
        return self.index.times_s[number] if number < self.num_frames else self.index.duration_s


def evenly(num_frames: int, max_samples: int) -> list[int]:
    """At most `max_samples` frame numbers, evenly spaced, the first and the last among them."""
    count = min(num_frames, max_samples)
    if count <= 1:
        return [0]
    return [round(n * (num_frames - 1) / (count - 1)) for n in range(count)]


def with_next(numbers: Sequence[int], frames: SmallFrames) -> list[int]:
    """The numbers and their successors, ascending."""
    last = frames.num_frames - 1
    return sorted({min(number + step, last) for number in numbers for step in (0, 1)})
