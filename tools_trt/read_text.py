"""read_text: the lines of text in a picture, a frame, or a part of one.

The engine reads, PP-OCRv6 or EasyOCR's weights by the type of the config; this tool cuts the part
out, drops what is read with too little confidence, puts lines in reading order and in thousandths
of the frame. One call at a time per reader. Keeps where text stands, never what it says: results
are kept by `memo.Remembered`, for every tool alike. Knows nothing of the agent.

Shapes: H, W = picture.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from pixelis_fast.tools_trt.geometry import box_to_px, check_box, px_to_box, px_to_point
from pixelis_fast.tools_trt.ocr.easyocr_config import EasyOcrConfig
from pixelis_fast.tools_trt.ocr.engine import FoundLine, TextEngine
from pixelis_fast.tools_trt.ocr.order import reading_order
from pixelis_fast.tools_trt.ocr.pp_ocr import ReadTextConfig, open_pp_ocr
from pixelis_fast.tools_trt.pixels.tiers import TierStore
from pixelis_fast.tools_trt.results import Box, ReadTextResult, TextLine
from pixelis_fast.tools_trt.store import MediaStore
from pixelis_fast.tools_trt.timing import StageClock

__all__ = ["EasyOcrConfig", "ReadText", "ReadTextConfig"]


class ReadText:
    """The tool.

    Example:
        read_text = ReadText(store, backend="openvino")
        print([line.text for line in read_text(page.id).lines])
        like_easyocr = ReadText(store, config=EasyOcrConfig())
    """

    def __init__(
        self,
        store: MediaStore,
        *,
        backend: str = "auto",
        threads: int = 1,
        config: ReadTextConfig | EasyOcrConfig | None = None,
        detection_bytes: int = 1 << 22,
    ) -> None:
        """`detection_bytes` bounds what `prepare` leaves for the calls after it."""
        self.config = config or ReadTextConfig()
        self._store = store
        self._engine = open_text_engine(self.config, backend=backend, threads=threads)
        self.engine, self.reasons = self._engine.name, self._engine.reasons
        """Backends and weights, and why each graph runs on its backend."""
        self._turn = threading.Lock()
        self._detections = TierStore(host_bytes=detection_bytes)

    def prepare(self, media_id: str, *, time_s: float | None = None) -> None:
        """Finds where text stands in a whole picture or frame that may be read."""
        image_HWC = self._store.frame(media_id, time_s)
        with self._turn:
            self._quads(image_HWC, self._store.pixels_id(media_id, time_s), StageClock())

    def __call__(
        self, media_id: str, box: Sequence[int] | None = None, *, time_s: float | None = None
    ) -> ReadTextResult:
        """Lines inside the box (0..1000 of the frame, default all of it), in reading order."""
        checked = None if box is None else check_box(box)
        clock = StageClock()
        with clock.stage("queue"):
            self._turn.acquire()
        try:
            with clock.stage("pre"):
                image_HWC = self._store.frame(media_id, time_s)
            # A part is detected anew: a detector sees the whole picture at another scale.
            key = self._store.pixels_id(media_id, time_s) if checked is None else None
            lines = self._read(image_HWC, checked, key, clock)
        finally:
            self._turn.release()
        return ReadTextResult(
            engine=self.engine, degraded=None, stage_ms=clock.stage_ms(), lines=lines
        )

    def _quads(self, image_HWC: np.ndarray, key: str | None, clock: StageClock) -> np.ndarray:
        return self._detections.get_or_make(key, lambda: self._engine.detect(image_HWC, clock))

    def _read(
        self, image_HWC: np.ndarray, box: Box | None, key: str | None, clock: StageClock
    ) -> tuple[TextLine, ...]:
        height, width = image_HWC.shape[:2]
        x0, y0, x1, y1 = box_to_px(box, width, height) if box else (0, 0, width, height)
        part_HWC = np.ascontiguousarray(image_HWC[y0:y1, x0:x1])
        found = self._engine.read(part_HWC, self._quads(part_HWC, key, clock), clock)
        with clock.stage("post"):
            kept = [line for line in found if self._is_text(line)]
            order = reading_order([line.quad_42 for line in kept])
            return tuple(_text_line(kept[n], (x0, y0), width, height) for n in order)

    def _is_text(self, line: FoundLine) -> bool:
        return bool(line.text.strip()) and line.score >= self.config.min_score


def open_text_engine(
    config: ReadTextConfig | EasyOcrConfig, *, backend: str, threads: int
) -> TextEngine:
    """The engine of the config's weights."""
    if isinstance(config, EasyOcrConfig):
        # Imported when asked for: the default needs neither the modules nor OpenVINO's converter.
        from pixelis_fast.tools_trt.ocr.easyocr_reader import open_easyocr

        return open_easyocr(config, backend=backend, threads=threads)
    return open_pp_ocr(config, backend=backend, threads=threads)


def _text_line(line: FoundLine, origin: tuple[int, int], width: int, height: int) -> TextLine:
    quad_42 = line.quad_42 + np.array(origin)
    bounds = (*quad_42.min(0), *quad_42.max(0))
    polygon = tuple(px_to_point(x, y, width, height) for x, y in quad_42.tolist())
    return TextLine(line.text, px_to_box(bounds, width, height), line.score, polygon)
