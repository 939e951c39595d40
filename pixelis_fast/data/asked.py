"""Questions about things that no task asks for, and the one call that each wants."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pixelis_fast.data.cota import CotaTurn
from pixelis_fast.data.labels import SHOWN_KINDS, SMALL_KINDS, place_of
from pixelis_fast.data.pixelworld.task import Task, WorldObject
from pixelis_fast.data.plans import rounded
from pixelis_fast.types import Box, ToolCall


def asked(task: Task, rng: np.random.Generator, count: int) -> list[tuple[str, CotaTurn]]:
    """Questions for things that are the only one of their kind in the picture."""
    if len(task.frames) > 1:
        return []
    names = Counter((thing.color, thing.shape) for thing in task.objects)
    things = [
        thing
        for thing in task.objects
        if thing.kind in SHOWN_KINDS and names[thing.color, thing.shape] == 1
    ]
    plates = [thing for thing in task.objects if thing.kind in SMALL_KINDS]
    possible = [each for thing in things for each in questions_about(thing, plates)]
    return [possible[index] for index in rng.permutation(len(possible))[:count]]


def questions_about(
    thing: WorldObject, plates: Sequence[WorldObject]
) -> Iterator[tuple[str, CotaTurn]]:
    """With the call that each wants: its own place, and that of the plate beside it."""
    name = f"{thing.color} {thing.shape}"
    yield question(f"segment the {name}", "segment", box=list(thing.box))
    yield question(f"look at the {name}", "zoom", box=list(thing.box))
    if not plates:
        return
    plate = min(plates, key=lambda each: apart(each.box, thing.box))
    yield question(f"look beside the {name}", "zoom", box=list(plate.box))


def question(text: str, operation: str, **arguments: Any) -> tuple[str, CotaTurn]:
    call = rounded(ToolCall(operation, {"media": 0, **arguments}))
    return text, CotaTurn(f"i {text}", call)


def apart(a: Box, b: Box) -> float:
    """Distance of two centres."""
    return math.dist(place_of(a)[:2], place_of(b)[:2])
