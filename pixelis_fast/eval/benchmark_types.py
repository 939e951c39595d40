"""What every benchmark is: items to ask, a score for each answer, a summary of the scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pixelis_fast.types import Evidence


@dataclass(frozen=True)
class Item:
    """One question, as its benchmark asks it.

    Example:
        Item("17", (Path("a.jpg"),), "What colour is it?\\n(A) red\\n(B) blue", ("A",), "colour")
    """

    id: str
    media: tuple[Path, ...]
    question: str
    """With the options and the instruction that the release's own evaluation uses."""
    truths: tuple[str, ...]
    """A letter, a number, or texts of which the nearest counts."""
    category: str = ""
    evidence: tuple[Evidence, ...] = ()


Load = Callable[[Path, Path], list[Item]]
"""(the release's folder, a folder for pictures and clips that have to be made) -> items."""
Score = Callable[[Item, str], float]
"""Of an answer that was given; 0 to 1."""
Summary = Callable[[Sequence[Item], Sequence[float]], dict[str, float]]


def check_ids(items: Sequence[Item], source: Path) -> None:
    """ValueError where two have one id: a score is found again by it."""
    [(most_common, times)] = Counter(item.id for item in items).most_common(1)
    if times > 1:
        raise ValueError(f"{source}: expected each id once, got {most_common} {times} times")


def mean_by_category(items: Sequence[Item], scores: Sequence[float]) -> dict[str, float]:
    """ "overall" is the mean over items; each category's own mean beside it."""
    parts: dict[str, list[float]] = {}
    for item, score in zip(items, scores, strict=True):
        parts.setdefault(item.category, []).append(score)
    named = {name: float(np.mean(part)) for name, part in sorted(parts.items()) if name}
    return {"overall": float(np.mean(scores)), **named}


@dataclass(frozen=True)
class Benchmark:
    """A loader with the scorer that its release defines."""

    name: str
    load: Load
    score_answer: Score
    summary: Summary = mean_by_category

    def score(self, item: Item, answer: str | None) -> float:
        """0 for no answer, as for an empty one."""
        return self.score_answer(item, answer.strip()) if answer and answer.strip() else 0.0
