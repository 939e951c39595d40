"""PP-OCRv6 as an engine: detect lines, cut each out and straighten it, recognise.

Lines read with little confidence may stand on their head and are read both ways. Knows nothing of
media or of the 0..1000 frame.

Shapes: H, W = picture; Q = lines found.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import cv2
import numpy as np
import torch

from pixelis_fast.tools_trt.backends import Session, open_session
from pixelis_fast.tools_trt.ocr.angle import WIDTH as ANGLE_WIDTH
from pixelis_fast.tools_trt.ocr.angle import TextAngle
from pixelis_fast.tools_trt.ocr.detector import DetectorConfig, TextDetector
from pixelis_fast.tools_trt.ocr.engine import FoundLine
from pixelis_fast.tools_trt.ocr.gate import Precision, has_bfloat16, open_gated
from pixelis_fast.tools_trt.ocr.recognizer import (
    LINE_HEIGHT,
    ReadLine,
    RecognizerConfig,
    TextRecognizer,
)
from pixelis_fast.tools_trt.ocr.weights import ANGLE, DETECTOR, RECOGNIZER, text_weights
from pixelis_fast.tools_trt.timing import StageClock

WEIGHTS_NAME = "pp-ocrv6-small"
VERTICAL_ASPECT = 1.5
"""A line this much higher than wide is read after a quarter turn."""


@dataclasses.dataclass(frozen=True)
class ReadTextConfig:
    """What counts as text."""

    detector: DetectorConfig = dataclasses.field(default_factory=DetectorConfig)
    recognizer: RecognizerConfig = dataclasses.field(default_factory=RecognizerConfig)
    min_score: float = 0.5
    """Lines read with less confidence are dropped."""
    turn_lines: bool = True
    """Look for lines that stand on their head."""
    trusted_score: float | None = 0.9
    """Lines read less well than this are read upside down too, and the better reading counts: of
    120 lines on their head 119 are turned, of 120 upright ones none. None asks PP-OCR's angle
    classifier about every line, as rapidocr does: it turns 104 and 2, and 123 of 7,586 characters
    come out wrong instead of 18 (`bench/text.py --ablate`)."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Of the recogniser; the detector stays in fp32, as bf16 moves its boxes by more than a pixel.
    bf16 is for processors with units for it, and an error where it fails its gate; auto takes it
    where it passes."""


class PpOcr:
    """The engine.

    Example:
        engine = open_pp_ocr(ReadTextConfig(), backend="openvino", threads=1)
        clock = StageClock()
        lines = engine.read(image_HWC, engine.detect(image_HWC, clock), clock)
    """

    def __init__(
        self,
        detector: Session,
        recognizer: Session,
        config: ReadTextConfig,
        *,
        angle: Session | None = None,
    ) -> None:
        """`angle` is asked about every line where the config trusts no score."""
        self.config = config
        self._detector = TextDetector(detector, config.detector)
        self._recognizer = TextRecognizer(recognizer, config.recognizer)
        self._angle = None if angle is None else TextAngle(angle)
        names = dict.fromkeys((detector.name, recognizer.name))
        self.name = f"{'+'.join(names)}:{WEIGHTS_NAME}"
        self.reasons = {"detector": detector.reason, "recognizer": recognizer.reason}

    def detect(self, image_HWC: np.ndarray, clock: StageClock) -> np.ndarray:
        """Corners (Q, 4, 2) of lines on the detector's sheet of the picture."""
        with clock.stage("pre"):
            sheet = self._detector.sheet(image_HWC)
        return self._detector(sheet, clock)

    def read(
        self, image_HWC: np.ndarray, quads_N42: np.ndarray, clock: StageClock
    ) -> list[FoundLine]:
        height, width = image_HWC.shape[:2]
        with clock.stage("pre"):
            # Made again rather than kept: it is the picture itself, or a resize of it.
            sheet = self._detector.sheet(image_HWC)
            cuts = [cut_line(sheet.image, quad_42) for quad_42 in quads_N42]
        read, corner_shifts = self._read_cuts(cuts, clock)
        with clock.stage("post"):
            original_N42 = sheet.to_original(quads_N42, width, height)
            found = zip(read, original_N42, corner_shifts, strict=True)
            return [FoundLine(r.text, r.score, np.roll(q, -shift, 0)) for r, q, shift in found]

    def _read_cuts(
        self, cuts: list[tuple[np.ndarray, int]], clock: StageClock
    ) -> tuple[list[ReadLine], list[int]]:
        """Readings, and by how many corners each line's own top left follows the box's."""
        lines_HWC = [line_HWC for line_HWC, _ in cuts]
        if not self.config.turn_lines:
            read, is_turned = self._recognizer(lines_HWC, clock), [False] * len(cuts)
        elif self._angle is not None:
            is_turned = self._angle(lines_HWC, clock)
            pairs = zip(lines_HWC, is_turned, strict=True)
            upright = [_half_turn(line) if turned else line for line, turned in pairs]
            read = self._recognizer(upright, clock)
        else:
            read, is_turned = self._read_both_ways(lines_HWC, clock)
        return read, [s + 2 * turned for (_, s), turned in zip(cuts, is_turned, strict=True)]

    def _read_both_ways(
        self, lines_HWC: list[np.ndarray], clock: StageClock
    ) -> tuple[list[ReadLine], list[bool]]:
        """The better reading of each doubtful line, and whether it is that of the turned line."""
        assert self.config.trusted_score is not None
        read, is_turned = self._recognizer(lines_HWC, clock), [False] * len(lines_HWC)
        doubtful = [n for n, line in enumerate(read) if line.score < self.config.trusted_score]
        turned = self._recognizer([_half_turn(lines_HWC[n]) for n in doubtful], clock)
        for n, line in zip(doubtful, turned, strict=True):
            if line.score > read[n].score:
                read[n], is_turned[n] = line, True
        return read, is_turned


def cut_line(image_HWC: np.ndarray, quad_42: np.ndarray) -> tuple[np.ndarray, int]:
    """The straightened line, and 1 if it was turned a quarter because it stands upright."""
    sides = np.linalg.norm(quad_42 - np.roll(quad_42, -1, 0), axis=1)
    width, height = int(max(sides[0], sides[2])), int(max(sides[1], sides[3]))
    flat_42 = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    line_HWC = cv2.warpPerspective(
        image_HWC,
        cv2.getPerspectiveTransform(quad_42, flat_42),
        (width, height),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )
    if height / width < VERTICAL_ASPECT:
        return line_HWC, 0
    return np.ascontiguousarray(np.rot90(line_HWC)), 1


def _half_turn(line_HWC: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(line_HWC[::-1, ::-1])


def open_pp_ocr(config: ReadTextConfig, *, backend: str, threads: int) -> PpOcr:
    """The engine on one backend, or on the fastest of each graph."""

    def open_at(precision: Precision) -> PpOcr:
        if precision == "bf16":
            recognizer = _open_bfloat16(RECOGNIZER, threads)
        else:
            shape = (1, 3, LINE_HEIGHT, 320)
            recognizer = _open(RECOGNIZER, backend, threads, shape=shape)
        return PpOcr(detector, recognizer, config, angle=angle)

    detector = _open(DETECTOR, backend, threads, shape=(1, 3, 352, 352))
    angle = None
    if config.turn_lines and config.trusted_score is None:
        angle = _open(ANGLE, backend, threads, shape=(6, 3, LINE_HEIGHT, ANGLE_WIDTH))
    if config.precision == "bf16" and backend not in ("auto", "openvino"):
        raise ValueError(f"precision bf16: expected backend openvino, got {backend}")
    may_narrow = backend in ("auto", "openvino") and has_bfloat16()
    return open_gated(config.precision, open_at, may_narrow=may_narrow)


def _open_bfloat16(file_name: str, threads: int) -> Session:
    from pixelis_fast.tools_trt.backends.openvino import OpenVinoSession

    return OpenVinoSession(text_weights(file_name), threads=threads, precision="bf16")


def _open(file_name: str, backend: str, threads: int, *, shape: tuple[int, ...]) -> Session:
    path = text_weights(file_name)
    if backend != "auto":
        return open_session(path, backend=backend, threads=threads)
    # Mid grey: the time of these graphs does not depend on what they see.
    inputs = {"x": torch.zeros(shape)}
    return open_session(path, backend=backend, threads=threads, warmup_inputs=inputs)
