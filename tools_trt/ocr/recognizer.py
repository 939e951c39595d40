"""Characters of a text line: PP-OCR's recogniser, and its greedy CTC reading.

Lines are grouped by width and padded to a few widths, so the graph meets few shapes and little is
padding. With one line per batch a line reads the same whatever else is on the page. The alphabet
comes from the graph's own metadata: class 0 is CTC's blank, the last class a space. Knows nothing
of where a line came from.

Shapes: B = lines of a batch, T = columns, V = alphabet.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from pixelis_fast.tools_trt.backends import Session
from pixelis_fast.tools_trt.ocr.detector import TO_UNIT
from pixelis_fast.tools_trt.results import MissingWeightsError
from pixelis_fast.tools_trt.timing import StageClock

LINE_HEIGHT = 48
"""Pixels, fixed by the graph."""


@dataclass(frozen=True)
class RecognizerConfig:
    """How lines are batched."""

    batch_size: int = 1
    """One line at a time keeps a line's activations in a CPU's cache; a GPU wants more."""
    min_width: int = 192
    """Narrower lines are padded to this. The weights were trained on 320; 192 reads as well (18 of
    7,586 characters wrong with either, none in short words) in 39 ms a short word instead of 47;
    128 misreads 17 (`bench/text.py --ablate`)."""
    width_step: int | None = 64
    """Widths are multiples of this, and a batch has one width; None pads to the widest line."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.min_width < 1 or (self.width_step or 1) < 1:
            raise ValueError(f"recogniser: expected sizes of at least 1, got {self}")


@dataclass(frozen=True)
class ReadLine:
    """What one line says.

    Example:
        ReadLine("Region-based segmentation", 0.99)
    """

    text: str
    score: float
    """Mean probability of its characters; 0 for an empty text."""


class TextRecognizer:
    """Reads line pictures.

    Example:
        lines = recognizer([line_HWC], clock)
    """

    def __init__(self, session: Session, config: RecognizerConfig | None = None) -> None:
        self.session = session
        self.config = config or RecognizerConfig()
        if "character" not in session.metadata:
            raise MissingWeightsError(
                f"recogniser: expected the field 'character' in the graph's metadata, got "
                f"{sorted(session.metadata)}"
            )
        self.alphabet = ["", *session.metadata["character"].splitlines(), " "]

    def __call__(self, lines_HWC: Sequence[np.ndarray], clock: StageClock) -> list[ReadLine]:
        """One result per line picture (RGB, any size), in the same order."""
        read: list[ReadLine] = [ReadLine("", 0.0)] * len(lines_HWC)
        for members, width in self._batches(lines_HWC):
            batch = [lines_HWC[n] for n in members]
            for n, line in zip(members, self._read_batch(batch, width, clock), strict=True):
                read[n] = line
        return read

    def _batches(self, lines_HWC: Sequence[np.ndarray]) -> Iterator[tuple[list[int], int]]:
        """Positions of lines and the width to pad them to."""
        size, step = self.config.batch_size, self.config.width_step
        widths = [max(self.config.min_width, fitted_width(line)) for line in lines_HWC]
        if step is None:
            for members in batches_by_width(lines_HWC, size):
                yield members, max(widths[n] for n in members)
            return
        steps = [math.ceil(width / step) for width in widths]
        for count in sorted(set(steps)):
            members = [n for n, other in enumerate(steps) if other == count]
            for start in range(0, len(members), size):
                yield members[start : start + size], count * step

    def _read_batch(
        self, lines_HWC: list[np.ndarray], width: int, clock: StageClock
    ) -> list[ReadLine]:
        with clock.stage("pre"):
            pixels_BCHW = np.stack([fit_line(line, width) for line in lines_HWC])
        with clock.stage("run"):
            [name] = self.session.input_names
            outputs = self.session.run({name: torch.from_numpy(pixels_BCHW)})
        with clock.stage("post"):
            return self._decode(next(iter(outputs.values())).numpy())

    def _decode(self, probability_BTV: np.ndarray) -> list[ReadLine]:
        if probability_BTV.shape[2] != len(self.alphabet):
            raise MissingWeightsError(
                f"recogniser: expected {len(self.alphabet)} classes, got {probability_BTV.shape[2]}"
            )
        class_BT = probability_BTV.argmax(axis=2)
        best_BT = np.take_along_axis(probability_BTV, class_BT[..., None], axis=2)[..., 0]
        pairs = zip(class_BT, best_BT, strict=True)
        return [read_ctc(class_T, best_T, self.alphabet) for class_T, best_T in pairs]


def read_ctc(class_T: np.ndarray, probability_T: np.ndarray, alphabet: Sequence[str]) -> ReadLine:
    """Drops repeats, then blanks (class 0)."""
    is_new_T = np.append(True, class_T[1:] != class_T[:-1])
    kept_T = is_new_T & (class_T != 0)
    text = "".join(alphabet[n] for n in class_T[kept_T])
    return ReadLine(text, float(probability_T[kept_T].mean()) if text else 0.0)


def batches_by_width(lines_HWC: Sequence[np.ndarray], batch_size: int) -> Iterator[list[int]]:
    """Positions of lines, narrowest first, in groups."""
    aspects = np.array([line.shape[1] / line.shape[0] for line in lines_HWC])
    order = np.argsort(aspects).tolist()
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def fitted_width(line_HWC: np.ndarray) -> int:
    """Width of a line brought to the graph's height."""
    return math.ceil(LINE_HEIGHT * line_HWC.shape[1] / line_HWC.shape[0])


def fit_line(line_HWC: np.ndarray, width: int) -> np.ndarray:
    """RGB line to BGR planes of the graph's height, padded with mid grey on the right."""
    filled = min(width, fitted_width(line_HWC))
    fitted_HWC = cv2.resize(line_HWC, (filled, LINE_HEIGHT))
    planes_CHW = np.zeros((3, LINE_HEIGHT, width), np.float32)
    for n, plane_HW in enumerate(cv2.split(fitted_HWC)[::-1]):
        planes_CHW[n, :, :filled] = cv2.LUT(plane_HW, TO_UNIT)
    return planes_CHW
