"""When two answers are the same: case, spaces, punctuation at words' ends and forms of numbers."""

from __future__ import annotations

import re
import unicodedata

ENDS = " \t\n.,;:!?\"'`()[]{}<>*_"
NUMBER = re.compile(r"([+-]?)((?:0|[1-9][0-9]*|[1-9][0-9]{0,2}(?:,[0-9]{3})+))?(\.[0-9]+)?")


def canonical(answer: str) -> str:
    """One spelling for all that count as one answer.

    Example:
        canonical(" 1,024.50. ") == "1024.5"; canonical("The RED one!") == "the red one"
    """
    text = _folded(answer)
    words = [_number(_bare(word)) for word in text.split()]
    return " ".join(word for word in words if word) or text.strip()


def _folded(text: str) -> str:
    """Compatibility characters and case; both again, as folding can make new ones."""
    for _ in range(2):
        text = unicodedata.normalize("NFKC", text).casefold()
    return unicodedata.normalize("NFKC", text)


def _bare(word: str) -> str:
    """Without punctuation at its ends; the point of ".5" belongs to the number."""
    bare = word.rstrip(ENDS).lstrip(ENDS.replace(".", ""))
    return bare if NUMBER.fullmatch(bare) and bare else bare.lstrip(ENDS)


def _number(word: str) -> str:
    """24.0, +24 and 24 are one number; 007 is a word."""
    found = NUMBER.fullmatch(word)
    if not found or not (found[2] or found[3]):
        return word
    whole = (found[2] or "0").replace(",", "")
    fraction = (found[3] or "").rstrip("0").rstrip(".")
    sign = "-" if found[1] == "-" and (whole, fraction) != ("0", "") else ""
    return f"{sign}{whole}{fraction}"
