"""A chain told again with other observations: what follows from them is then all that decides.

Real tools say one text and one pair of areas per picture. A policy that learns from those alone
says the signs' words it knows instead of copying a new one, and chooses between areas by chance:
24 of 51 test questions right. Here the observations say texts and areas drawn at random, and only
the turn that depends on them is imitated: the answer, or as often, behind two areas and a sign, the
look that they decide on. Areas keep their order where that turn is a call to a place. The pictures
stay: what is changed cannot be read off them at a policy's resolution.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pixelis_fast.data.cota import CotaTurn
from pixelis_fast.data.evident import areas_of, asked_names
from pixelis_fast.data.pixelworld.task import Task
from pixelis_fast.data.pixelworld.words import code_text, is_of_split
from pixelis_fast.data.plans import LOOKS, quoting, restated, weighed
from pixelis_fast.observations import compact_json
from pixelis_fast.policy.tokenizer import Tokenizer

FAMILIES = ("read", "compare", "multi")
CONSONANTS, VOWELS = "bcdfghjklmnprstvwz", "aeiou"
AREAS = (1.5, 13.0)
"""Of the smaller thing, as PixelWorld's are."""
LARGEST_RATIO = 1.6


@dataclass(frozen=True)
class Retold:
    """What a trace is built of; without an answer its last turn is what is imitated.

    Example:
        Retold([segment, other], "which is larger, …\\n7.1 6.4 the first\\n", "red")
    """

    turns: list[CotaTurn]
    thought: str
    answer: str | None

    @property
    def imitated(self) -> tuple[bool, ...]:
        before = len(self.turns) - (self.answer is None)
        return (*[False] * before, True)


def retold(
    task: Task,
    turns: Sequence[CotaTurn],
    said: Sequence[str],
    rng: np.random.Generator,
    *,
    pieces: Sequence[str],
) -> Retold:
    """Of the shortest plan: its turns, which restate the question, and what the tools said;
    `pieces`: of words that a sign may say."""
    contents: list[dict[str, Any]] = [json.loads(text) for text in said]
    if task.family == "read" or (task.family == "multi" and rng.random() < 0.5):
        return _with_other_text(task, turns, contents, other_text(rng, task.split, pieces))
    return _with_other_areas(task, turns, contents, rng)


def _with_other_text(
    task: Task, turns: Sequence[CotaTurn], contents: list[dict[str, Any]], text: str
) -> Retold:
    contents[-1]["lines"][0]["text"] = text
    areas = areas_of(contents)
    told = [weighed(turn, task.question, areas) for turn in _told(turns, contents)]
    return Retold(told, quoting(restated(task.question), task.question, areas), text)


def _with_other_areas(
    task: Task, turns: Sequence[CotaTurn], contents: list[dict[str, Any]], rng: np.random.Generator
) -> Retold:
    """The answer between the two things, or the look beside the larger one."""
    areas = other_areas(rng)
    compares = task.family == "compare"
    measured = areas_of(contents)
    if not compares and (areas[0] > areas[1]) != (measured[0] > measured[1]):
        areas = areas[::-1]
    told_area = dict(zip(measured, areas, strict=True))
    for content in contents:
        if "area" in content:
            content["area"] = told_area[content["area"]]
    thought = quoting(restated(task.question), task.question, areas)
    told = list(_told(turns, contents))
    if compares:
        colors = [name.split()[0] for name in asked_names(task)]
        return Retold(told, thought, colors[0 if areas[0] > areas[1] else 1])
    choice = next(n for n, turn in enumerate(turns) if turn.call.operation in LOOKS)
    chosen = weighed(turns[choice], task.question, areas)
    return Retold([*told[:choice], chosen], "", None)


def _told(turns: Sequence[CotaTurn], contents: list[dict[str, Any]]) -> Iterator[CotaTurn]:
    for turn, content in zip(turns, contents, strict=True):
        yield replace(turn, observation=compact_json(content))


def other_areas(rng: np.random.Generator) -> tuple[float, float]:
    """Two that differ by a tenth at least, either one the larger."""
    while True:
        small = rng.uniform(*AREAS)
        pair = round(float(small), 1), round(float(small * rng.uniform(1, LARGEST_RATIO)), 1)
        if pair[0] != pair[1]:
            return pair if rng.random() < 0.5 else pair[::-1]


def pieces_of(tokenizer: Tokenizer) -> list[str]:
    """The tokens that words are written with. A policy that had copied codes and made-up words
    alone wrote 'ro' for 'bird', which is one token: 9 of 22 signs that it had found."""
    texts = tokenizer.hf.batch_decode([[index] for index in range(tokenizer.vocab_size)])
    return [text for text in texts if re.fullmatch(r"[a-z]{1,8}", text)]


def other_text(
    rng: np.random.Generator, split: str, pieces: Sequence[str], *, most: int = 3
) -> str:
    """A code, a made-up word or, as often, one of up to so many tokens; of the split's own."""
    while True:
        draw = rng.integers(6)
        text = (_word, _letters, code_text)[draw](rng) if draw < 3 else _pieced(rng, pieces, most)
        if is_of_split(text, split):
            return text


def _pieced(rng: np.random.Generator, pieces: Sequence[str], most: int) -> str:
    return "".join(pieces[n] for n in rng.integers(len(pieces), size=rng.integers(1, most + 1)))


def _word(rng: np.random.Generator) -> str:
    syllables = [f"{_one(CONSONANTS, rng)}{_one(VOWELS, rng)}" for _ in range(rng.integers(1, 4))]
    return "".join(syllables) + _one(CONSONANTS, rng)


def _letters(rng: np.random.Generator) -> str:
    return "".join(_one(CONSONANTS + VOWELS, rng) for _ in range(rng.integers(3, 7)))


def _one(letters: str, rng: np.random.Generator) -> str:
    return letters[rng.integers(len(letters))]
