"""Groups of chains over one picture: G members, T tool steps each, then the answer.

Members ask the same question and differ as samples of one policy do: other thoughts, boxes moved by
a few pixels. So turns have unequal lengths, every crop is encoded and every tool really runs;
nothing one member found serves another. Knows no arm.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.cases import Case, answer, step
from bench.flags import listed

SCENE = "invoice"
QUESTION = "What is the total due, what colour is the seal, and how many crates of pears are there?"
THOUGHTS = (
    "This should tell me more.",
    "I need a closer look at this part before I say anything.",
    "The picture is small here, so I check the details first.",
    "One more look.",
    "What I have seen so far is not enough to be sure of the answer.",
    "Let me make certain of that.",
    "The next thing to find out is what stands in this place.",
    "I want to verify this with a tool.",
)
"""Any of them may stand before any call; 3 to 14 words."""
STEPS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("zoom", {"media": 0, "box": (40, 560, 950, 930)}),
    ("read_text", {"media": 0, "box": (40, 590, 680, 690)}),
    ("zoom", {"media": 0, "box": (650, 590, 940, 940)}),
    ("segment", {"media": 0, "box": (670, 610, 925, 920)}),
    ("properties", {"mask": 0}),
    ("zoom", {"media": 0, "box": (40, 200, 950, 480)}),
    ("read_text", {"media": 0, "box": (40, 200, 950, 480)}),
    ("zoom", {"media": 0, "box": (40, 50, 950, 180)}),
)
"""Half of them bring a picture; the other half are short text."""
MAX_MEMBERS = 8
SHIFT = 4
"""Thousandths of the width that a member's boxes lie right of the one before: three pixels."""
ANSWER = answer("Now I have all I need.", "619.30, the seal is red, 7 crates")
FULL = ("G1-T4", "G1-T8", "G8-T4", "G8-T5", "G8-T8")
QUICK = ("G1-T2", "G2-T3")


@dataclass(frozen=True)
class GroupCase:
    """One group.

    Example:
        group_case("G8-T5").members[3].calls
    """

    name: str
    members: tuple[Case, ...]

    @property
    def size(self) -> int:
        return len(self.members)

    @property
    def num_steps(self) -> int:
        return len(self.members[0].calls)


def largest(cases: Sequence[GroupCase]) -> GroupCase:
    """As many members as any, each with as many steps as any: all others are beginnings of it."""
    size, steps = max(case.size for case in cases), max(case.num_steps for case in cases)
    return group_case(f"G{size}-T{steps}")


def group_case(name: str) -> GroupCase:
    """From its name; ValueError when there are no such chains."""
    found = re.fullmatch(r"G(\d+)-T(\d+)", name)
    size, num_steps = (int(each) for each in found.groups()) if found else (0, 0)
    if not (1 <= size <= MAX_MEMBERS and 1 <= num_steps <= len(STEPS)):
        raise ValueError(
            f"--cases: expected G1..G{MAX_MEMBERS} and T1..T{len(STEPS)}, as in G8-T5, got {name}"
        )
    members = tuple(_member(f"{name} member {index}", index, num_steps) for index in range(size))
    return GroupCase(name, members)


def chosen_groups(*, quick: bool, names: str) -> list[GroupCase]:
    """The quick ones, all, or those of a comma list."""
    return [group_case(name) for name in listed(names) or (QUICK if quick else FULL)]


def _member(name: str, index: int, num_steps: int) -> Case:
    turns = [
        step(_thought(index, number), operation, **_moved(arguments, index))
        for number, (operation, arguments) in enumerate(STEPS[:num_steps])
    ]
    return Case(name, (SCENE,), QUESTION, (*turns, ANSWER))


def _thought(index: int, number: int) -> str:
    # 3 is coprime to 8: members that start alike part again at the next turn.
    return THOUGHTS[(3 * index + number) % len(THOUGHTS)]


def _moved(arguments: dict[str, Any], index: int) -> dict[str, Any]:
    if "box" not in arguments:
        return arguments
    x0, y0, x1, y1 = arguments["box"]
    return arguments | {"box": [x0 + SHIFT * index, y0, x1 + SHIFT * index, y1]}
