"""Questions about things that no task asks for, and the one call that each wants.

They come in the wordings of tasks too, and first about things that share their colour with another:
seven of twenty first looks that missed the plate lay beside a thing of the right colour and the
wrong shape.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pixelis_fast.data.cota import CotaTurn
from pixelis_fast.data.labels import SHOWN_KINDS, SMALL_KINDS, place_of
from pixelis_fast.data.pixelworld.spatial import COLUMN, ROW
from pixelis_fast.data.pixelworld.task import Task, WorldObject
from pixelis_fast.data.pixelworld.words import wordings
from pixelis_fast.data.plans import rounded
from pixelis_fast.types import Box, ToolCall

USES = {
    "count": ("count",),
    "spatial": ("spatial_shape", "spatial_color"),
    "read": ("read",),
}
"""Wordings of the families that ask about a plate."""


def asked(task: Task, rng: np.random.Generator, count: int) -> list[tuple[str, CotaTurn]]:
    """Questions for things that are the only one of their kind in the picture, at random, those of
    a colour that another has before the rest; in train's wordings."""
    if len(task.frames) > 1:
        return []
    names = Counter((thing.color, thing.shape) for thing in task.objects)
    things = [
        thing
        for thing in task.objects
        if thing.kind in SHOWN_KINDS and names[thing.color, thing.shape] == 1
    ]
    plates = [thing for thing in task.objects if thing.kind in SMALL_KINDS]
    colors = Counter(thing.color for thing in things)
    possible = [
        (colors[thing.color] == 1, rng.random(), each)
        for thing in things
        for each in (*questions_about(thing, plates), *worded(task, thing, plates, rng))
    ]
    possible.sort(key=lambda one: one[:2])
    return [each for _, _, each in possible[:count]]


def questions_about(
    thing: WorldObject, plates: Sequence[WorldObject]
) -> Iterator[tuple[str, CotaTurn]]:
    """With the call that each wants: its own place, and that of the plate beside it."""
    name = f"{thing.color} {thing.shape}"
    yield question(f"segment the {name}", "segment", box=list(thing.box))
    yield question(f"look at the {name}", "zoom", box=list(thing.box))
    if plates:
        yield beside(thing, plates, f"look beside the {name}")


def worded(
    task: Task, thing: WorldObject, plates: Sequence[WorldObject], rng: np.random.Generator
) -> Iterator[tuple[str, CotaTurn]]:
    """The task's question, asked about another thing and in one more wording."""
    name = f"{thing.color} {thing.shape}"
    if not plates or task.family not in USES or name in task.question:
        return
    choices = [each for use in USES[task.family] for each in wordings(use)]
    at = str(rng.choice(ROW + COLUMN))
    yield beside(thing, plates, str(rng.choice(choices)).format(x=name, at=at))


def beside(thing: WorldObject, plates: Sequence[WorldObject], text: str) -> tuple[str, CotaTurn]:
    """A question that wants a look at the plate beside a thing."""
    plate = min(plates, key=lambda each: apart(each.box, thing.box))
    text, turn = question(text, "zoom", box=list(plate.box))
    return text, replace(turn, thought=f"i look beside the {thing.color} {thing.shape}")


def question(text: str, operation: str, **arguments: Any) -> tuple[str, CotaTurn]:
    call = rounded(ToolCall(operation, {"media": 0, **arguments}))
    return text, CotaTurn(f"i {text}", call)


def apart(a: Box, b: Box) -> float:
    """Distance of two centres."""
    return math.dist(place_of(a)[:2], place_of(b)[:2])
