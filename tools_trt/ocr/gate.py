"""Readers in reduced precision, and the gate before them: a page of text must read like in fp32.

The gate is what a user would see: on drawn lines of several sizes, slants and contrasts the same
strings, and no line's corner moved by more than a pixel. OpenCV's strokes need no font. Knows no
engine by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

import cv2
import numpy as np

from pixelis_fast.tools_trt.ocr.engine import FoundLine, TextEngine, read_at_once
from pixelis_fast.tools_trt.results import ToolError

Precision = Literal["fp32", "bf16"]
MAX_MOVE_PX = 1.0
PROBE_SIZE = (192, 384)
PROBE_LINES = (
    ("Invoice 2024-117 Total: 1,284.50", 0.5, 20),
    ("Ship to: 42 Market Street", 0.7, 90),
    ("Reference AB-9931/Z", 0.9, 40),
)
"""Text, size, grey level of the ink."""
SLANT_DEG = 4.0

Engine = TypeVar("Engine", bound=TextEngine)


class PrecisionGateError(ToolError):
    """The precision asked for does not read like fp32 here; says what differs."""


def has_bfloat16() -> bool:
    """Whether OpenVINO computes in bf16 on this processor."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def open_gated(
    precision: Literal["auto", "fp32", "bf16"],
    open_at: Callable[[Precision], Engine],
    *,
    may_narrow: bool,
) -> Engine:
    """In bf16 if it passes; otherwise "auto" falls back to fp32 and says why, "bf16" raises."""
    if precision == "fp32" or (precision == "auto" and not may_narrow):
        return open_at("fp32")
    narrow, exact = open_at("bf16"), open_at("fp32")
    problem = difference(exact, narrow)
    if problem and precision == "bf16":
        raise PrecisionGateError(f"precision bf16: {problem}")
    chosen = exact if problem else narrow
    verdict = f"bf16 failed its gate: {problem}" if problem else "bf16 passed its gate"
    chosen.reasons = {graph: f"{why}; {verdict}" for graph, why in chosen.reasons.items()}
    return chosen


def difference(exact: TextEngine, other: TextEngine) -> str | None:
    """What differs between two engines on the probes; None if nothing that counts."""
    for name, image_HWC in probes().items():
        expected, got = (read_at_once(engine, image_HWC) for engine in (exact, other))
        texts = [[line.text for line in lines] for lines in (expected, got)]
        if not expected or texts[0] != texts[1]:
            return f"{name}: expected {texts[0]}, got {texts[1]}"
        if (moved := _largest_move(expected, got)) > MAX_MOVE_PX:
            return f"{name}: expected corners within {MAX_MOVE_PX} px, got {moved:.1f}"
    return None


def probes() -> dict[str, np.ndarray]:
    """Pictures with text: level, and slanted on a grey ground."""
    return {"level": _probe(paper=255, angle=0.0), "slanted": _probe(paper=225, angle=SLANT_DEG)}


def _largest_move(expected: list[FoundLine], got: list[FoundLine]) -> float:
    pairs = zip(expected, got, strict=True)
    return max(float(np.abs(e.quad_42 - g.quad_42).max()) for e, g in pairs)


def _probe(*, paper: int, angle: float) -> np.ndarray:
    height, width = PROBE_SIZE
    image_HWC = np.full((height, width, 3), paper, np.uint8)
    for row, (text, size, ink) in enumerate(PROBE_LINES):
        origin = (16, 45 + 50 * row)
        cv2.putText(
            image_HWC, text, origin, cv2.FONT_HERSHEY_SIMPLEX, size, (ink,) * 3, 1, cv2.LINE_AA
        )
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
    return cv2.warpAffine(image_HWC, turn, (width, height), borderValue=(paper,) * 3)
