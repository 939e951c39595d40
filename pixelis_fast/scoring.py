"""How an answer is held against the truth, by kind, and the form under which equal answers meet.

Every score is in [0, 1]. No answer, or one that cannot be read as its kind, scores 0; a truth that
cannot be read as its kind is the data's mistake and a ValueError.

EXACT   equal once case, white space, quotes and terminal punctuation are folded
NUMBER  equal to a whole truth; within two units of a decimal truth's last written place
        ("2.4" takes 2.2 to 2.6); units, currency, thousands' commas and "about" are ignored
TEXT    ANLS with threshold 0.5: 1 - edit distance / longer length, 0 where that is below 0.5
BOX     intersection over union of "[x0, y0, x1, y1]", coordinates 0..1000
SPAN    intersection over union of "[start, end]" in seconds; "1.5 to 3 s" is read too
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import TypeVar

from rapidfuzz.distance import Levenshtein

from pixelis_fast.types import AnswerKind, Box, Span

ANLS_THRESHOLD = 0.5
DECIMAL_UNITS = 2
"""How many units of its last written place a decimal truth may be missed by."""
MAX_COORDINATE = 1000
Value = TypeVar("Value")

NUMBER = re.compile(
    r"(?<![\w.,])[-+\u2212]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\d|,\d|\.\d|e[-+]?\d)"
)
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBER_WORDS = {word: value for value, word in enumerate((*WORDS, "eleven", "twelve"))}
# No coordinate has more digits than this; int() refuses a number of thousands.
BOX = re.compile(r"[\[(]?\s*" + r"[,\s]+".join([r"(\d{1,4})"] * 4) + r"\s*[\])]?")
SECONDS = r"(\d+(?:\.\d+)?)\s*(?:s|sec|seconds)?"
SPAN = re.compile(rf"[\[(]?\s*(?:from\s+)?{SECONDS}\s*(?:,|-|–|\s|to|and)\s*{SECONDS}\s*[\])]?")


def answer_score(kind: AnswerKind, answer: str | None, truth: str) -> float:
    """How right an answer is, 0 to 1.

    Example:
        answer_score(AnswerKind.NUMBER, "24 coins", "24")  # 1.0
    """
    given = answer or ""
    if kind is AnswerKind.EXACT:
        return float(fold(given) == fold(readable(truth, kind)))
    if kind is AnswerKind.NUMBER:
        return number_score(given, truth)
    if kind is AnswerKind.TEXT:
        return anls(given, [readable(truth, kind)])
    if kind is AnswerKind.BOX:
        box, true_box = parse_box(given), required(parse_box(truth), truth, kind)
        return box_iou(box, true_box) if box else 0.0
    span, true_span = parse_span(given), required(parse_span(truth), truth, kind)
    return span_iou(span, true_span) if span else 0.0


def fold(text: str) -> str:
    """Case, white space, quotes around it and punctuation at its end folded away."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return plain.strip("\"'`*").rstrip(".,;:!? ").rstrip("\"'`*").strip()


def number_score(answer: str, truth: str) -> float:
    true = required(parse_number(truth), truth, AnswerKind.NUMBER)
    given = parse_number(answer)
    if given is None:
        return 0.0
    exponent = true.as_tuple().exponent
    assert isinstance(exponent, int), "a parsed number is finite"
    tolerance = DECIMAL_UNITS * Decimal(1).scaleb(exponent) if exponent < 0 else Decimal(0)
    return float(abs(given - true) <= tolerance)


def parse_number(text: str) -> Decimal | None:
    """The one number in the text, or the word up to twelve it begins with; None for all else."""
    found = NUMBER.findall(text.casefold())
    if not found:
        first = re.match(r"\W*([a-z]+)", text.casefold())
        value = NUMBER_WORDS.get(first.group(1)) if first else None
        return None if value is None else Decimal(value)
    numbers = {Decimal(each.replace(",", "").replace("\u2212", "-")) for each in found}
    return numbers.pop() if len(numbers) == 1 else None


def anls(answer: str, truths: Sequence[str], *, threshold: float = ANLS_THRESHOLD) -> float:
    """Of the nearest truth, case and white space folded; a similarity of the threshold counts."""
    given = " ".join(answer.casefold().split())
    best = max(
        Levenshtein.normalized_similarity(given, " ".join(truth.casefold().split()))
        for truth in truths
    )
    return best if given and best >= threshold else 0.0


def parse_box(text: str) -> Box | None:
    found = BOX.fullmatch(text.strip().rstrip("."))
    if found is None:
        return None
    x0, y0, x1, y1 = map(int, found.groups())
    is_box = x0 < x1 <= MAX_COORDINATE and y0 < y1 <= MAX_COORDINATE
    return (x0, y0, x1, y1) if is_box else None


def parse_span(text: str) -> Span | None:
    found = SPAN.fullmatch(text.strip().casefold().rstrip("."))
    if found is None:
        return None
    start, end = map(float, found.groups())
    return (start, end) if start <= end else None


def box_iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Of two (x0, y0, x1, y1)."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared) if shared else 0.0


def span_iou(one: Span, other: Span) -> float:
    """Of two (start, end); a moment meets only itself."""
    if one == other:
        return 1.0
    shared = max(min(one[1], other[1]) - max(one[0], other[0]), 0.0)
    union = max(one[1], other[1]) - min(one[0], other[0])
    return shared / union if shared else 0.0


def readable(truth: str, kind: AnswerKind) -> str:
    return required(truth if fold(truth) else None, truth, kind)


def required(value: Value | None, truth: str, kind: AnswerKind) -> Value:
    if value is None:
        raise ValueError(f"truth: expected an answer of kind {kind.value}, got {truth!r}")
    return value
