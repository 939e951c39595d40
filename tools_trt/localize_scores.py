"""Frame scores of the events that last: motion, the look of a region, a text.

Each scorer answers for any frame numbers, so one search can sample, threshold and refine them all
alike. Every one states its limits; none knows what a thing is.

Shapes: T = frames; h, w = small frame; D = embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import cv2
import numpy as np

from pixelis_fast.tools_trt.classical.grabcut import PxBox
from pixelis_fast.tools_trt.localize_frames import SmallFrames

QUIET_LEVELS = 1.5
"""Grey levels of difference that noise leaves in a small frame."""
LOOK_SIDE = 40
"""Working pixels of a region's longer side."""
FIELD_SIDE = 320
"""Most working pixels of a frame; a small region keeps its own size up to that."""
LOOK_SCALES = (0.6, 0.8, 1.0, 1.25, 1.6)
SAME_LEVELS = 10
"""Frames that differ nowhere by more, at 96 pixels, share one reading of their text."""


class FrameEmbedder(Protocol):
    """What turns pictures of one size into vectors whose cosine is likeness."""

    @property
    def version(self) -> str:
        """Equal versions promise equal vectors."""

    def __call__(self, frames_THWC: np.ndarray) -> np.ndarray:
        """(T, H, W, 3) of uint8 -> (T, D)."""


class MotionScore:
    """Mean brightness change to the next frame, in grey levels, less what noise leaves.

    Camera motion counts as motion; a cut is one frame of it.
    """

    def __init__(self, frames: SmallFrames) -> None:
        self.frames = frames

    def __call__(self, numbers: Sequence[int]) -> np.ndarray:
        last = self.frames.num_frames - 1
        starts = [min(number, max(last - 1, 0)) for number in numbers]
        before, after = (self._grey([min(n + step, last) for n in starts]) for step in (0, 1))
        return np.clip(np.abs(after - before) - QUIET_LEVELS, 0, None).mean((1, 2))

    def _grey(self, numbers: Sequence[int]) -> np.ndarray:
        greys = [cv2.cvtColor(small, cv2.COLOR_RGB2GRAY) for small in self.frames(numbers)]
        return np.stack([cv2.GaussianBlur(grey, (3, 3), 0).astype(np.float32) for grey in greys])


class LookScore:
    """Best correlation of a region's colour and edges anywhere in the frame, over five sizes.

    Turned, bent or newly lit regions are missed.
    """

    def __init__(self, frames: SmallFrames, *, number: int, box_px: PxBox) -> None:
        self.frames = frames
        frame_HWC = next(frames.full([number]))
        x0, y0, x1, y1 = box_px
        longest = max(frame_HWC.shape[:2])
        self.scale = min(1.0, LOOK_SIDE / max(x1 - x0, y1 - y0), FIELD_SIDE / longest)
        field = self._features(frame_HWC)
        left, top, right, bottom = (round(value * self.scale) for value in box_px)
        left, top = min(left, field.shape[1] - 2), min(top, field.shape[0] - 2)
        self.look = field[top : max(bottom, top + 2), left : max(right, left + 2)]

    def __call__(self, numbers: Sequence[int]) -> np.ndarray:
        return np.array([self._best(self._features(frame)) for frame in self.frames.full(numbers)])

    def _best(self, field: np.ndarray) -> float:
        return max(self._at(field, scale) for scale in LOOK_SCALES)

    def _at(self, field: np.ndarray, scale: float) -> float:
        height, width = (max(round(n * scale), 2) for n in self.look.shape[:2])
        if height > field.shape[0] or width > field.shape[1]:
            return -1.0
        look = cv2.resize(self.look, (width, height), interpolation=cv2.INTER_AREA)
        found = cv2.matchTemplate(field, look, cv2.TM_CCOEFF_NORMED)
        return min(float(np.nan_to_num(found, nan=-1.0, posinf=-1.0, neginf=-1.0).max()), 1.0)

    def _features(self, frame_HWC: np.ndarray) -> np.ndarray:
        """Edge strength, two colour axes, and brightness with half the weight."""
        height, width = frame_HWC.shape[:2]
        size = max(round(width * self.scale), 4), max(round(height * self.scale), 4)
        small = cv2.resize(frame_HWC, size, interpolation=cv2.INTER_AREA)
        lab = cv2.cvtColor(small, cv2.COLOR_RGB2Lab).astype(np.float32)
        across, down = (cv2.Sobel(lab[..., 0], cv2.CV_32F, *axis) for axis in ((1, 0), (0, 1)))
        edges = cv2.magnitude(across, down) / 8
        return np.dstack([edges, 2 * lab[..., 1], 2 * lab[..., 2], 0.5 * lab[..., 0]])


class EmbeddedLookScore:
    """Best cosine between a region's embedding and those of same-sized windows of the frame."""

    def __init__(
        self, frames: SmallFrames, embedder: FrameEmbedder, *, number: int, box_px: PxBox
    ) -> None:
        self.frames = frames
        self.embedder = embedder
        frame_HWC = next(frames.full([number]))
        self.windows = _windows(box_px, frame_HWC.shape[:2])
        self.look_D = self._embed(frame_HWC, [box_px])[0]

    def __call__(self, numbers: Sequence[int]) -> np.ndarray:
        frames = self.frames.full(numbers)
        return np.array(
            [float((self._embed(frame, self.windows) @ self.look_D).max()) for frame in frames]
        )

    def _embed(self, frame_HWC: np.ndarray, windows: Sequence[PxBox]) -> np.ndarray:
        parts = np.stack([frame_HWC[y0:y1, x0:x1] for x0, y0, x1, y1 in windows])
        vectors_TD = np.asarray(self.embedder(parts), dtype=np.float64)
        return vectors_TD / np.linalg.norm(vectors_TD, axis=1, keepdims=True).clip(1e-12)


class TextScore:
    """How well a frame's text contains the query; frames that look the same are read once."""

    def __init__(
        self, frames: SmallFrames, query: str, read: Callable[[float], Sequence[str]]
    ) -> None:
        self.frames = frames
        self.query = query
        self.read = read
        self._read_scores: list[tuple[np.ndarray, float]] = []

    def __call__(self, numbers: Sequence[int]) -> np.ndarray:
        return np.array([self._score(number) for number in numbers])

    def _score(self, number: int) -> float:
        small = self.frames([number])[0].astype(np.int16)
        for seen, score in reversed(self._read_scores):
            if np.abs(seen - small).max() <= SAME_LEVELS:
                return score
        lines = self.read(self.frames.time_s(number))
        score = max((contains(text, self.query) for text in (*lines, " ".join(lines))), default=0.0)
        self._read_scores.append((small, score))
        return score


def contains(text: str, query: str) -> float:
    """1 - (fewest edits that turn some part of the text into the query) / length, at least 0.

    Case and runs of spaces do not count. The table is Sellers' (1980): the first row is zero, so
    a match may start anywhere.
    """
    wanted, given = " ".join(query.casefold().split()), " ".join(text.casefold().split())
    costs = list(range(len(wanted) + 1))
    best = costs[-1]
    for letter in given:
        diagonal, costs[0] = costs[0], 0
        for n, other in enumerate(wanted, start=1):
            replaced = diagonal + (letter != other)
            diagonal = costs[n]
            costs[n] = min(replaced, costs[n] + 1, costs[n - 1] + 1)
        best = min(best, costs[-1])
    return max(0.0, 1 - best / max(len(wanted), 1))


def _windows(box_px: PxBox, size: tuple[int, int]) -> list[PxBox]:
    """The box itself and up to 3 x 3 windows of its size spread over the frame."""
    width, height = box_px[2] - box_px[0], box_px[3] - box_px[1]
    lefts = sorted({round(n * (size[1] - width) / 2) for n in range(3)})
    tops = sorted({round(n * (size[0] - height) / 2) for n in range(3)})
    spread = [(x, y, x + width, y + height) for y in tops for x in lefts]
    return [box_px, *(window for window in spread if window != box_px)]
