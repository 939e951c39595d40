"""Characters of EasyOCR's lines: greedy CTC, confidence, and a second look with more contrast.

Lines of one width share batches; a line's width depends on the line alone, so that it reads the
same whatever else is on the page. With a session in reduced precision beside the exact one, lines
whose text hangs on a close call are read again exactly.

Shapes: B = lines of a batch, T = columns, V = alphabet, K = columns with a character.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pixelis_fast.tools_trt.backends import Session
from pixelis_fast.tools_trt.ocr.easyocr_config import EasyOcrRecognizerConfig
from pixelis_fast.tools_trt.ocr.easyocr_crops import Cut, line_planes, with_contrast
from pixelis_fast.tools_trt.ocr.easyocr_weights import ALPHABET
from pixelis_fast.tools_trt.timing import StageClock

BLANK = 0


@dataclass(frozen=True)
class Reading:
    """What one line says."""

    text: str
    score: float


class EasyOcrRecognizer:
    """Reads cut lines.

    Example:
        readings = recognizer(cuts, clock)
    """

    def __init__(
        self, session: Session, config: EasyOcrRecognizerConfig, *, exact: Session | None = None
    ) -> None:
        self.session = session
        self.exact = exact
        """In full precision; None where `session` is."""
        self.config = config

    def __call__(self, cuts: Sequence[Cut], clock: StageClock) -> list[Reading]:
        """One reading per line, in the same order."""
        readings = self._read([cut.pixels_hw for cut in cuts], cuts, clock)
        doubtful = [n for n, r in enumerate(readings) if r.score < self.config.trusted_score]
        with clock.stage("pre"):
            clearer = [with_contrast(cuts[n].pixels_hw, self.config.contrast) for n in doubtful]
        second = self._read(clearer, [cuts[n] for n in doubtful], clock)
        for n, reading in zip(doubtful, second, strict=True):
            if readings[n].score <= reading.score:
                readings[n] = reading
        return readings

    def _read(
        self, lines: Sequence[np.ndarray], cuts: Sequence[Cut], clock: StageClock
    ) -> list[Reading]:
        widths = [cut.width for cut in cuts]
        readings: list[Reading] = [Reading("", 0.0)] * len(lines)
        unsure = []
        for n, logits_TV in self._run(self.session, lines, widths, clock):
            with clock.stage("post"):
                readings[n] = read_logits(logits_TV)
                if self.exact is not None and self._is_unsure(logits_TV, readings[n]):
                    unsure.append(n)
        if self.exact is not None:
            lines, widths = [lines[n] for n in unsure], [widths[n] for n in unsure]
            for n, logits_TV in self._run(self.exact, lines, widths, clock):
                readings[unsure[n]] = read_logits(logits_TV)
        return readings

    def _run(
        self,
        session: Session,
        lines: Sequence[np.ndarray],
        widths: Sequence[int],
        clock: StageClock,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Each line's position and logits."""
        for members, width in _batches(widths, self.config.batch_size):
            with clock.stage("pre"):
                planes = [line_planes(lines[n], width) for n in members]
                pixels_B1HW = torch.from_numpy(np.stack(planes)[:, None])
            with clock.stage("run"):
                [name] = session.input_names
                (logits_BTV,) = session.run({name: pixels_B1HW}).values()
            yield from zip(members, logits_BTV.float().numpy(), strict=True)

    def _is_unsure(self, logits_TV: np.ndarray, reading: Reading) -> bool:
        """Whether one close call more or less would change the text, or bring a second look."""
        if reading.score < 2 * self.config.trusted_score:
            return True
        second_T, best_T = np.argsort(logits_TV, axis=1)[:, -2:].T
        columns = np.arange(len(logits_TV))
        gap_T = logits_TV[columns, best_T] - logits_TV[columns, second_T]
        for column in np.flatnonzero(gap_T < self.config.close_call):
            other_T = np.where(columns == column, second_T, best_T)
            if _text(other_T) != reading.text:
                return True
        return False


def _batches(widths: Sequence[int], size: int) -> Iterator[tuple[list[int], int]]:
    """Positions of lines of one width, and that width; batches are powers of two.

    A graph prepares itself for every new shape: with powers of two there are few.
    """
    for width in sorted(set(widths)):
        members = [n for n, other in enumerate(widths) if other == width]
        while members:
            count = 1 << (min(len(members), size).bit_length() - 1)
            yield members[:count], width
            members = members[count:]


def read_logits(logits_TV: np.ndarray) -> Reading:
    """The likeliest class per column, repeats and blanks dropped."""
    class_T = logits_TV.argmax(axis=1)
    # The softmax of the largest: exp(0) over the sum.
    best_T = 1 / np.exp(logits_TV - logits_TV.max(axis=1, keepdims=True)).sum(axis=1)
    return Reading(_text(class_T), confidence(best_T[class_T != BLANK]))


def _text(class_T: np.ndarray) -> str:
    is_new_T = np.append(True, class_T[1:] != class_T[:-1])
    return "".join(ALPHABET[n - 1] for n in class_T[is_new_T & (class_T != BLANK)])


def confidence(probability_K: np.ndarray) -> float:
    """EasyOCR's: the product over all columns with a character, to the power 2 / sqrt(columns)."""
    if probability_K.size == 0:
        return 0.0
    return float(probability_K.prod() ** (2 / np.sqrt(probability_K.size)))
