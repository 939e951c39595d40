"""Which way up a text line lies: PP-OCR's two-class angle classifier (0 or 180 degrees)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pixelis_fast.tools_trt.backends import Session
from pixelis_fast.tools_trt.ocr.recognizer import batches_by_width, fit_line
from pixelis_fast.tools_trt.timing import StageClock

WIDTH = 192
"""Pixels, fixed by the graph; longer lines are squeezed."""
BATCH_SIZE = 6
UPSIDE_DOWN_THRESHOLD = 0.9


class TextAngle:
    """Tells which line pictures stand on their head.

    Example:
        is_upside_down = angle(lines_HWC, clock)
    """

    def __init__(self, session: Session) -> None:
        self.session = session

    def __call__(self, lines_HWC: Sequence[np.ndarray], clock: StageClock) -> list[bool]:
        """True for each line that lies upside down."""
        flags = [False] * len(lines_HWC)
        for members in batches_by_width(lines_HWC, BATCH_SIZE):
            with clock.stage("pre"):
                pixels_BCHW = np.stack([fit_line(lines_HWC[n], WIDTH) for n in members])
            with clock.stage("run"):
                [name] = self.session.input_names
                outputs = self.session.run({name: torch.from_numpy(pixels_BCHW)})
            with clock.stage("post"):
                probability_B2 = next(iter(outputs.values()))
                upside_down_B = probability_B2[:, 1] > UPSIDE_DOWN_THRESHOLD
                for n, flag in zip(members, upside_down_B.tolist(), strict=True):
                    flags[n] = flag
        return flags
