"""Which option an answer chose, by the rules of the benchmarks' own evaluations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase

VSTAR_PATTERNS = (
    r"^\W*([A-D])\b",
    r"\b(?:ANSWER|CHOICE|OPTION)(?:\s+IS)?[\s:(]+([A-D])\b",
    r"\(([A-D])\)",
    r"\b([A-D])[.)\]]",
    r"(?:^|\s)([A-D])(?:\s|$)",
)
VIDEO_MME_PREFIXES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option is",
    "The correct option is",
    "Best answer:",
    "Best option:",
)
MMSTAR_PREFIXES = ("", "(", "option ", "the answer is ")


def lettered(options: Sequence[str], *, form: str = "({letter}) {option}") -> str:
    """The options one a line."""
    pairs = zip(ascii_uppercase, options, strict=False)
    return "\n".join(form.format(letter=letter, option=option) for letter, option in pairs)


def vstar_letter(answer: str) -> str | None:
    """As lmms-eval reads V* answers, but a word's first letter is no choice: "Brown" is not B."""
    upper = answer.strip().upper()
    for pattern in VSTAR_PATTERNS:
        if found := re.search(pattern, upper):
            return found.group(1)
    return None


def video_mme_letter(answer: str) -> str | None:
    """Video-MME's own: known phrases cut out, then the first capital of A to D."""
    rest = answer.strip()
    for prefix in VIDEO_MME_PREFIXES:
        rest = rest.replace(prefix, "")
    found = re.search("[ABCD]", rest)
    return found.group(0) if found else None


def mvbench_agrees(answer: str, letter: str) -> bool:
    """MVBench's own, with the letter that its evaluation demands since it asks for one.

    The answer's first word and "(letter)" hold each other: "A", "(A)", "a." and "(A)," do.
    """
    first, option = answer.lower().split(" ")[0], f"({letter.lower()})"
    if not re.search("[a-g]", first):
        return False
    return first.replace(".", "") in option or option in first


def mmstar_agrees(answer: str, letter: str) -> bool:
    """MMStar's own: the answer begins with the letter, alone or after one of four phrases."""
    given, true = (text.lower().strip().replace("\n", " ") for text in (answer, letter))
    return any(given.startswith(prefix + true) for prefix in MMSTAR_PREFIXES)


def first_word(answer: str) -> str:
    """VSI-Bench's own: up to the first blank, without its full stop."""
    return answer.split(" ")[0].rstrip(".").strip()
