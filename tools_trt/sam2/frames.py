"""A session's frames: numbered, addressable within a window, encoded once and in batches ahead.

Features come from the shared cache of `Sam2`; those encoded ahead, and those of the frame in hand,
are held here, so that a small cache costs no second encoding.

Shapes: H, W = frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pixelis_fast.tools_trt.results import ToolInputError
from pixelis_fast.tools_trt.sam2.network import ImageFeatures, Sam2


@dataclass(frozen=True)
class Frame:
    """Pixels to encode, or features that were."""

    image_HWC: np.ndarray | None
    key: str | None
    features: ImageFeatures | None


class FrameWindow:
    """The newest frames of one video, all of one size."""

    def __init__(self, sam2: Sam2, *, window: int | None, encode_batch: int) -> None:
        if encode_batch < 1 or (window is not None and window < 1):
            raise ValueError(
                f"frames: expected window and encode_batch >= 1, got {window} and {encode_batch}"
            )
        self.sam2, self.window, self.encode_batch = sam2, window, encode_batch
        self.count = 0
        self._size: tuple[int, int] | None = None
        self._frames: dict[int, Frame] = {}
        self._held: dict[int, ImageFeatures] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._frames

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        if self._size is None:
            raise ToolInputError("video: expected a frame first, got an empty session")
        return self._size

    def numbers(self) -> range:
        return range(min(self._frames, default=0), self.count)

    def add(
        self,
        image_HWC: np.ndarray | None,
        *,
        key: str | None,
        features: ImageFeatures | None,
        size: tuple[int, int] | None,
    ) -> int:
        """Appends a frame and returns its number; the oldest leaves a full window."""
        self._size = self._checked_size(image_HWC, features=features, size=size)
        number, self.count = self.count, self.count + 1
        self._frames[number] = Frame(image_HWC, key, features)
        if self.window is not None and len(self._frames) > self.window:
            gone = min(self._frames)
            del self._frames[gone]
            self._held.pop(gone, None)
        return number

    def check(self, number: int) -> None:
        if number not in self._frames:
            numbers = self.numbers()
            held = f"{numbers[0]}..{numbers[-1]}" if numbers else "none yet"
            raise ToolInputError(f"frame: expected one of {held}, got {number}")

    def features(self, number: int, *, ahead: Sequence[int] = ()) -> ImageFeatures:
        """A frame's features; those of the frames `ahead` that fill its batch are encoded too."""
        if number not in self._held:
            self._held = {n: kept for n, kept in self._held.items() if n in ahead}
            wanted = [n for n in (number, *ahead) if n not in self._held][: self.encode_batch]
            self._held.update(self._encoded(wanted))
        return self._held[number]

    def _encoded(self, numbers: list[int]) -> dict[int, ImageFeatures]:
        given = {n: self._frames[n].features for n in numbers}
        found = {n: kept for n, kept in given.items() if kept is not None}
        missing = [n for n in numbers if n not in found]
        frames = [self._frames[n] for n in missing]
        images = [frame.image_HWC for frame in frames if frame.image_HWC is not None]
        encoded = self.sam2.encode_batch(images, keys=[frame.key for frame in frames])
        return found | dict(zip(missing, encoded, strict=True))

    def _checked_size(
        self,
        image_HWC: np.ndarray | None,
        *,
        features: ImageFeatures | None,
        size: tuple[int, int] | None,
    ) -> tuple[int, int]:
        if (image_HWC is None) == (features is None) or (features is None) != (size is None):
            raise ToolInputError("frame: expected pixels, or features with a size, got other")
        if image_HWC is not None and (image_HWC.ndim != 3 or image_HWC.shape[2] != 3):
            raise ToolInputError(f"frame: expected pixels (H, W, 3), got {image_HWC.shape}")
        found = size or image_HWC.shape[:2]  # type: ignore[union-attr]
        if self._size not in (None, found):
            raise ToolInputError(f"frame: expected the size {self._size}, got {found}")
        return found
