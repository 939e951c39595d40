"""What a reader behind `read_text` does: a picture in, lines with their corners out.

An engine knows one family of weights. It knows nothing of media, boxes in thousandths, results
kept, or reading order; those are `ReadText`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pixelis_fast.tools_trt.timing import StageClock


@dataclass(frozen=True)
class FoundLine:
    """One line as it was found.

    Example:
        FoundLine("EXIT 7", 0.98, np.array([[0, 0], [90, 0], [90, 20], [0, 20]]))
    """

    text: str
    score: float
    quad_42: np.ndarray
    """Corners in pixels of the picture, clockwise from the text's own top left."""


class TextEngine(Protocol):
    """Reads pictures, one at a time."""

    name: str
    """Backends and weights, e.g. "openvino:pp-ocrv6-small"."""
    reasons: dict[str, str]
    """Why each graph runs on its backend."""

    def detect(self, image_HWC: np.ndarray, clock: StageClock) -> np.ndarray:
        """Where text stands in an RGB picture: corners (N, 4, 2), in the engine's own frame."""
        ...

    def read(
        self, image_HWC: np.ndarray, quads_N42: np.ndarray, clock: StageClock
    ) -> list[FoundLine]:
        """All lines of the picture `detect` looked at, in no particular order."""
        ...


def read_at_once(engine: TextEngine, image_HWC: np.ndarray) -> list[FoundLine]:
    """Detects and reads, untimed."""
    return engine.read(image_HWC, engine.detect(image_HWC, StageClock()), StageClock())
