"""read_text: the lines of text in a picture, a frame, or a part of one.

PP-OCRv6: detect lines, cut each out and straighten it, recognise, read doubtful ones again that
may stand on their head, order. One call at a time per reader. Results are kept per pixels and box,
and a kept result equals a fresh one; `memo_size=0` turns that off. Knows nothing of the agent.

Shapes: H, W = picture; Q = lines found.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Sequence

import cv2
import numpy as np

from pixelis_fast.tools_trt.backends import Session, open_session
from pixelis_fast.tools_trt.geometry import box_to_px, check_box, px_to_box, px_to_point
from pixelis_fast.tools_trt.results import Box, ReadTextResult, TextLine
from pixelis_fast.tools_trt.store import MediaStore
from pixelis_fast.tools_trt.text_angle import WIDTH as ANGLE_WIDTH
from pixelis_fast.tools_trt.text_angle import TextAngle
from pixelis_fast.tools_trt.text_detector import DetectorConfig, TextDetector
from pixelis_fast.tools_trt.text_order import reading_order
from pixelis_fast.tools_trt.text_recognizer import (
    LINE_HEIGHT,
    ReadLine,
    RecognizerConfig,
    TextRecognizer,
)
from pixelis_fast.tools_trt.text_weights import ANGLE, DETECTOR, RECOGNIZER, text_weights
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
    memo_size: int = 4096
    """Results kept; 0 keeps none."""


class ReadText:
    """The tool.

    Example:
        read_text = ReadText(store, backend="openvino")
        print([line.text for line in read_text(page.id).lines])
    """

    def __init__(
        self,
        store: MediaStore,
        *,
        backend: str = "auto",
        threads: int = 1,
        config: ReadTextConfig | None = None,
    ) -> None:
        self.config = config or ReadTextConfig()
        self._store = store
        detector = _open(DETECTOR, backend, threads, shape=(1, 3, 352, 352))
        recognizer = _open(RECOGNIZER, backend, threads, shape=(1, 3, LINE_HEIGHT, 320))
        self._detector = TextDetector(detector, self.config.detector)
        self._recognizer = TextRecognizer(recognizer, self.config.recognizer)
        self._angle = None
        if self.config.turn_lines and self.config.trusted_score is None:
            shape = (6, 3, LINE_HEIGHT, ANGLE_WIDTH)
            self._angle = TextAngle(_open(ANGLE, backend, threads, shape=shape))
        names = dict.fromkeys((detector.name, recognizer.name))
        self.engine = f"{'+'.join(names)}:{WEIGHTS_NAME}"
        self.reasons = {"detector": detector.reason, "recognizer": recognizer.reason}
        """Why each graph runs on its backend."""
        self._memo: OrderedDict[tuple[str, Box | None], tuple[TextLine, ...]] = OrderedDict()
        self._turn = threading.Lock()

    def __call__(
        self, media_id: str, box: Sequence[int] | None = None, *, time_s: float | None = None
    ) -> ReadTextResult:
        """Lines inside the box (0..1000 of the frame, default all of it), in reading order."""
        key = (self._store.pixels_id(media_id, time_s), None if box is None else check_box(box))
        clock = StageClock()
        with clock.stage("queue"):
            self._turn.acquire()
        try:
            lines = self._remembered(key)
            if lines is None:
                with clock.stage("pre"):
                    image_HWC = self._store.frame(media_id, time_s)
                lines = self._read(image_HWC, key[1], clock)
                self._remember(key, lines)
        finally:
            self._turn.release()
        return ReadTextResult(
            engine=self.engine, degraded=None, stage_ms=clock.stage_ms(), lines=lines
        )

    def _remembered(self, key: tuple[str, Box | None]) -> tuple[TextLine, ...] | None:
        if key in self._memo:
            self._memo.move_to_end(key)
        return self._memo.get(key)

    def _remember(self, key: tuple[str, Box | None], lines: tuple[TextLine, ...]) -> None:
        self._memo[key] = lines
        while len(self._memo) > self.config.memo_size:
            self._memo.popitem(last=False)

    def _read(
        self, image_HWC: np.ndarray, box: Box | None, clock: StageClock
    ) -> tuple[TextLine, ...]:
        height, width = image_HWC.shape[:2]
        x0, y0, x1, y1 = box_to_px(box, width, height) if box else (0, 0, width, height)
        part_HWC = np.ascontiguousarray(image_HWC[y0:y1, x0:x1])
        sheet, quads_Q42 = self._detector(part_HWC, clock)
        with clock.stage("pre"):
            cuts = [cut_line(sheet.image, quad_42) for quad_42 in quads_Q42]
        read, corner_shifts = self._read_cuts(cuts, clock)
        with clock.stage("post"):
            part_Q42 = sheet.to_original(quads_Q42, x1 - x0, y1 - y0)
            original_Q42 = part_Q42 + np.array((x0, y0))
            turned = [np.roll(q, -s, 0) for q, s in zip(original_Q42, corner_shifts, strict=True)]
            kept = [n for n, line in enumerate(read) if self._is_text(line)]
            order = reading_order([original_Q42[n] for n in kept])
            return tuple(_text_line(read[kept[n]], turned[kept[n]], width, height) for n in order)

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

    def _is_text(self, line: ReadLine) -> bool:
        return bool(line.text.strip()) and line.score >= self.config.min_score


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


def _open(file_name: str, backend: str, threads: int, *, shape: tuple[int, ...]) -> Session:
    path = text_weights(file_name)
    if backend != "auto":
        return open_session(path, backend=backend, threads=threads)
    # Mid grey: the time of these graphs does not depend on what they see.
    inputs = {"x": np.zeros(shape, np.float32)}
    return open_session(path, backend=backend, threads=threads, warmup_inputs=inputs)


def _text_line(line: ReadLine, quad_42: np.ndarray, width: int, height: int) -> TextLine:
    bounds = (*quad_42.min(0), *quad_42.max(0))
    polygon = tuple(px_to_point(x, y, width, height) for x, y in quad_42.tolist())
    return TextLine(line.text, px_to_box(bounds, width, height), line.score, polygon)
