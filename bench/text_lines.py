"""Lines on their head: what a recogniser's score and PP-OCR's angle classifier say of them.

Each line that the detector finds is read as it lies and after half a turn. A score below
`trusted_score` sends `read_text` to the other reading; the classifier is what rapidocr asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.text_pictures import TextPicture
from pixelis_fast.tools_trt.backends import open_session
from pixelis_fast.tools_trt.ocr.angle import TextAngle
from pixelis_fast.tools_trt.ocr.detector import TextDetector
from pixelis_fast.tools_trt.ocr.pp_ocr import ReadTextConfig, cut_line
from pixelis_fast.tools_trt.ocr.recognizer import TextRecognizer
from pixelis_fast.tools_trt.ocr.weights import ANGLE, DETECTOR, RECOGNIZER, text_weights
from pixelis_fast.tools_trt.timing import StageClock


def turned_lines(pictures: Sequence[TextPicture], *, threads: int) -> dict[str, Any]:
    """A table: of upright and of turned lines, how many each rule takes for which."""
    upright = cut_lines(pictures, threads=threads)
    turned = [np.ascontiguousarray(line_HWC[::-1, ::-1]) for line_HWC in upright]
    scores = [line_scores(lines, threads=threads) for lines in (upright, turned)]
    flags = [angle_flags(lines, threads=threads) for lines in (upright, turned)]
    trusted = ReadTextConfig().trusted_score
    assert trusted is not None
    rows = []
    for name, own, other, flagged in (
        ("upright", scores[0], scores[1], flags[0]),
        ("on their head", scores[1], scores[0], flags[1]),
    ):
        kept = [mine >= trusted or mine >= theirs for mine, theirs in zip(own, other, strict=True)]
        cells = sum(score >= trusted for score in own), sum(kept), sum(flagged)
        rows.append([name, str(len(own)), *map(str, cells)])
    title = f"Lines both ways up: read with {trusted} and more, left as they lie, called turned"
    columns = ["lines", "count", f"score >= {trusted}", "read_text leaves", "classifier turns"]
    return {"title": title, "columns": columns, "rows": rows}


def cut_lines(pictures: Sequence[TextPicture], *, threads: int) -> list[np.ndarray]:
    """All lines found in upright pictures, as they lie."""
    detector = TextDetector(open_on_openvino(DETECTOR, threads))
    lines = []
    for picture in pictures:
        sheet = detector.sheet(picture.image_HWC)
        lines += [cut_line(sheet.image, quad_42)[0] for quad_42 in detector(sheet, StageClock())]
    return lines


def line_scores(lines_HWC: Sequence[np.ndarray], *, threads: int) -> list[float]:
    recognizer = TextRecognizer(open_on_openvino(RECOGNIZER, threads))
    return [line.score for line in recognizer(lines_HWC, StageClock())]


def angle_flags(lines_HWC: Sequence[np.ndarray], *, threads: int) -> list[bool]:
    return TextAngle(open_on_openvino(ANGLE, threads))(lines_HWC, StageClock())


def open_on_openvino(file_name: str, threads: int) -> Any:
    return open_session(text_weights(file_name), backend="openvino", threads=threads)
