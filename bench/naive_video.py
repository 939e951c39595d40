"""Frames of a video by OpenCV: the file is opened anew for each use, and seeks decode again."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np


class VideoFile:
    """An open cv2.VideoCapture over a temporary copy of the bytes; OpenCV reads files only."""

    def __init__(self, encoded: bytes) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="pixelis-bench-")
        path = Path(self._folder.name) / "video.mp4"
        path.write_bytes(encoded)
        self._capture = cv2.VideoCapture(str(path))
        self.frames_per_second = self._capture.get(cv2.CAP_PROP_FPS)
        self.num_frames = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._capture.release()
        self._folder.cleanup()

    def number(self, time_s: float) -> int:
        return min(round(time_s * self.frames_per_second), self.num_frames - 1)

    def frame(self, time_s: float) -> np.ndarray:
        """RGB of the frame nearest to a time."""
        self._capture.set(cv2.CAP_PROP_POS_FRAMES, self.number(time_s))
        return self._read()

    def between(
        self, start_s: float, end_s: float, max_frames: int
    ) -> tuple[list[np.ndarray], list[float]]:
        """At most max_frames frames, evenly spaced, with their times."""
        first, last = self.number(start_s), self.number(end_s)
        count = min(max_frames, last - first + 1)
        wanted = [round(n) for n in np.linspace(first, last, count)]
        self._capture.set(cv2.CAP_PROP_POS_FRAMES, first)
        frames = []
        for number in range(first, last + 1):
            frame = self._read()
            if number in wanted:
                frames.append(frame)
        return frames, [number / self.frames_per_second for number in wanted]

    def all(self) -> tuple[list[np.ndarray], list[float]]:
        frames = [self._read() for _ in range(self.num_frames)]
        return frames, [number / self.frames_per_second for number in range(self.num_frames)]

    def _read(self) -> np.ndarray:
        ok, frame = self._capture.read()
        if not ok:
            raise ValueError("video: expected another frame, got the end")
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
