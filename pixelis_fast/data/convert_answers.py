"""Answers of other formats: their text, and how they will be scored."""

from __future__ import annotations

import re
from typing import Any

from pixelis_fast.types import AnswerKind

PLAIN_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def first_text(value: Any) -> str | None:
    """The text, or the first of several; None for anything else."""
    first = value[0] if isinstance(value, list) and value else value
    return first.strip() or None if isinstance(first, str) else None


def answer_kind(answer: str) -> AnswerKind:
    """NUMBER for a number and nothing else; EXACT for letters, words and phrases."""
    return AnswerKind.NUMBER if PLAIN_NUMBER.fullmatch(answer) else AnswerKind.EXACT
