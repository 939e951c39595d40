"""From words to lines, by EasyOCR's rules.

Level words of one height that follow each other closely become one upright box; a slanted word
stays a quadrilateral of its own. Both grow by a margin. Knows nothing of pixels.

Shapes: N = words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pixelis_fast.tools_trt.ocr.easyocr_config import LineConfig


@dataclass(frozen=True)
class Upright:
    """A level word or line, in whole pixels."""

    left: int
    right: int
    top: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def middle(self) -> float:
        return 0.5 * (self.top + self.bottom)

    def quad(self) -> np.ndarray:
        x0, x1, y0, y1 = self.left, self.right, self.top, self.bottom
        return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def group_lines(
    words_N42: np.ndarray, config: LineConfig
) -> tuple[list[Upright], list[np.ndarray]]:
    """Level lines from top to bottom, and slanted words as (4, 2) corners."""
    level_words, slanted = [], []
    for word_42 in words_N42.astype(np.int32):
        if _slope(word_42) < config.max_slope:
            (x0, y0), (x1, y1) = word_42.min(0).tolist(), word_42.max(0).tolist()
            level_words.append(Upright(x0, x1, y0, y1))
        else:
            slanted.append(_with_margin(word_42, config.margin))
    level_words.sort(key=lambda word: word.middle)
    rows = _runs(level_words, lambda row, word: _is_in_row(row, word, config))
    lines = [_line(run, config.margin) for row in rows for run in _close_runs(row, config)]
    return (
        [line for line in lines if max(line.width, line.height) > config.min_side],
        [quad for quad in slanted if np.ptp(quad, axis=0).max() > config.min_side],
    )


def _slope(word_42: np.ndarray) -> float:
    """The steeper of the upper and the lower edge; short edges count as ten pixels long."""
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = word_42.tolist()
    return max(abs((y1 - y0) / max(10, x1 - x0)), abs((y2 - y3) / max(10, x2 - x3)))


def _with_margin(word_42: np.ndarray, share: float) -> np.ndarray:
    """Each corner moves outwards along its diagonal."""
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = word_42.tolist()
    margin = int(1.44 * share * min(math.hypot(x3 - x0, y3 - y0), math.hypot(x1 - x0, y1 - y0)))
    falling = abs(math.atan((y0 - y2) / max(10, x0 - x2)))
    rising = abs(math.atan((y1 - y3) / max(10, x1 - x3)))
    fall_x, fall_y = math.cos(falling) * margin, math.sin(falling) * margin
    rise_x, rise_y = math.cos(rising) * margin, math.sin(rising) * margin
    moves_42 = [(-fall_x, -fall_y), (rise_x, -rise_y), (fall_x, fall_y), (-rise_x, rise_y)]
    return word_42 + np.array(moves_42)


def _runs(
    words: Sequence[Upright], joins: Callable[[list[Upright], Upright], bool]
) -> Iterator[list[Upright]]:
    """Cuts a sequence wherever a word does not join those before it."""
    run: list[Upright] = []
    for word in words:
        if run and not joins(run, word):
            yield run
            run = []
        run.append(word)
    if run:
        yield run


def _is_in_row(row: list[Upright], word: Upright, config: LineConfig) -> bool:
    middle = np.mean([other.middle for other in row])
    height = np.mean([other.height for other in row])
    return bool(abs(middle - word.middle) < config.same_row * height)


def _close_runs(row: list[Upright], config: LineConfig) -> Iterator[list[Upright]]:
    words = sorted(row, key=lambda word: word.left)
    return _runs(words, lambda run, word: _follows(run, word, config))


def _follows(run: list[Upright], word: Upright, config: LineConfig) -> bool:
    height = np.mean([other.height for other in run])
    is_alike = abs(height - word.height) < config.same_height * height
    return bool(is_alike and word.left - run[-1].right < config.max_gap * word.height)


def _line(words: list[Upright], share: float) -> Upright:
    left, right = min(word.left for word in words), max(word.right for word in words)
    top, bottom = min(word.top for word in words), max(word.bottom for word in words)
    margin = int(share * min(right - left, bottom - top))
    return Upright(left - margin, right + margin, top - margin, bottom + margin)
