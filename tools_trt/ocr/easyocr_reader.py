"""EasyOCR's English reader on graphs of ours: the same lines, compiled.

CRAFT finds words, rules join them to lines, the CRNN reads them. Sizes, thresholds and rules are
those of EasyOCR 1.7's `readtext`. Lines on their head are not looked for, as there.

Shapes: H, W = picture; h, w = maps; N = words.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch

from pixelis_fast.tools_trt.backends import Session
from pixelis_fast.tools_trt.models.craft import MAP_STRIDE, STRIDE
from pixelis_fast.tools_trt.ocr.easyocr_components import word_boxes
from pixelis_fast.tools_trt.ocr.easyocr_config import EasyOcrConfig
from pixelis_fast.tools_trt.ocr.easyocr_crops import cut_lines
from pixelis_fast.tools_trt.ocr.easyocr_lines import group_lines
from pixelis_fast.tools_trt.ocr.easyocr_recognizer import EasyOcrRecognizer
from pixelis_fast.tools_trt.ocr.easyocr_sessions import open_craft, open_crnn
from pixelis_fast.tools_trt.ocr.engine import FoundLine
from pixelis_fast.tools_trt.ocr.gate import Precision, has_bfloat16, open_gated
from pixelis_fast.tools_trt.timing import StageClock

MEAN = (np.array((0.485, 0.456, 0.406)) * 255).astype(np.float32)
DEVIATION = (np.array((0.229, 0.224, 0.225)) * 255).astype(np.float32)
TO_CRAFT = ((np.arange(256, dtype=np.float32)[:, None] - MEAN) / DEVIATION).T.copy()
"""Byte to what the graph was trained on, one table per channel."""


class EasyOcr:
    """The engine; a picture is read as `easyocr.Reader(["en"]).readtext` does an RGB array."""

    def __init__(
        self,
        detector: Session,
        recognizer: Session,
        config: EasyOcrConfig,
        *,
        exact: Session | None = None,
    ) -> None:
        """`exact` reads what `recognizer`, if it computes in reduced precision, is not sure of."""
        self.config = config
        self._detector = detector
        self._recognizer = EasyOcrRecognizer(recognizer, config.recognizer, exact=exact)
        names = dict.fromkeys((detector.name, recognizer.name))
        self.name = f"{'+'.join(names)}:easyocr-en"
        self.reasons = {"detector": detector.reason, "recognizer": recognizer.reason}

    def read(
        self, image_HWC: np.ndarray, quads_N42: np.ndarray, clock: StageClock
    ) -> list[FoundLine]:
        with clock.stage("post"):
            lines, slanted = group_lines(quads_N42, self.config.lines)
        with clock.stage("pre"):
            # EasyOCR weighs an array's channels as if they were BGR.
            grey_HW = cv2.cvtColor(image_HWC, cv2.COLOR_BGR2GRAY)
            cuts = cut_lines(grey_HW, lines, slanted)
        readings = self._recognizer(cuts, clock)
        pairs = zip(cuts, readings, strict=True)
        return [FoundLine(reading.text, reading.score, cut.quad_42) for cut, reading in pairs]

    def detect(self, image_HWC: np.ndarray, clock: StageClock) -> np.ndarray:
        """(N, 4, 2) corners of words in pixels of the picture."""
        with clock.stage("pre"):
            canvas_HWC, ratio = make_canvas(image_HWC, self.config.max_side)
            pixels_13HW = torch.from_numpy(to_planes(canvas_HWC))
        with clock.stage("run"):
            [name] = self._detector.input_names
            (maps_12hw,) = self._detector.run({name: pixels_13HW}).values()
        with clock.stage("post"):
            text_hw, link_hw = maps_12hw[0].numpy()
            boxes_N42 = word_boxes(text_hw, link_hw, self.config.components)
            return (boxes_N42 * (MAP_STRIDE / ratio)).astype(np.float32)


def make_canvas(image_HWC: np.ndarray, max_side: int) -> tuple[np.ndarray, float]:
    """The picture, reduced if it is too large, on black up to the next multiples of the stride."""
    height, width = image_HWC.shape[:2]
    ratio = min(max(height, width), max_side) / max(height, width)
    height, width = max(1, int(height * ratio)), max(1, int(width * ratio))
    canvas_HWC = np.zeros((*(-(-side // STRIDE) * STRIDE for side in (height, width)), 3), np.uint8)
    canvas_HWC[:height, :width] = cv2.resize(
        image_HWC, (width, height), interpolation=cv2.INTER_LINEAR
    )
    return canvas_HWC, ratio


def to_planes(canvas_HWC: np.ndarray) -> np.ndarray:
    """RGB bytes to the graph's 1 x RGB x H x W."""
    planes = zip(cv2.split(canvas_HWC), TO_CRAFT, strict=True)
    return np.stack([cv2.LUT(plane_HW, table) for plane_HW, table in planes])[None]


def open_easyocr(config: EasyOcrConfig, *, backend: str, threads: int) -> EasyOcr:
    """The engine; backend "auto" is OpenVINO, the faster of the two that take any size."""
    backend = "openvino" if backend == "auto" else backend

    def open_at(precision: Precision) -> EasyOcr:
        folder, exact = config.weights_folder, None
        detector = open_craft(folder, backend=backend, precision=precision, threads=threads)
        recognizer = open_crnn(folder, backend=backend, precision=precision, threads=threads)
        if precision != "fp32":
            exact = open_crnn(folder, backend=backend, precision="fp32", threads=threads)
        return EasyOcr(detector, recognizer, config, exact=exact)

    may_narrow = backend == "openvino" and has_bfloat16()
    return open_gated(config.precision, open_at, may_narrow=may_narrow)
