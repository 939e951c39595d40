"""The group that both trainers learn from: chains of text-only tools with rewards fixed by member.

TRL takes pictures of the prompt alone, so no call here shows one. Knows no arm.
"""

from __future__ import annotations

import re
from typing import Any

from bench.cases import Case, answer, step
from bench.rollout_cases import ANSWER, QUESTION, SCENE, SHIFT, THOUGHTS, GroupCase

NO_CHANGE = 1e-30
"""A learning rate at which fp32 weights stay what they are, so that every run is the same."""
TRL_SETTINGS: dict[str, Any] = {
    "learning_rate": NO_CHANGE,
    "weight_decay": 0.0,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "remove_unused_columns": False,
}
"""Of both of its trainers."""
STEPS = (
    ("read_text", {"media": 0, "box": (40, 590, 680, 690)}),
    ("segment", {"media": 0, "box": (670, 610, 925, 920)}),
    ("properties", {"mask": 0}),
    ("read_text", {"media": 0, "box": (40, 200, 950, 480)}),
)
FULL, QUICK = ("G8-T1", "G8-T3"), ("G4-T2",)


def training_case(name: str) -> GroupCase:
    """From its name: G members, T calls each; ValueError when there is no such group."""
    found = re.fullmatch(r"G(\d+)-T(\d+)", name)
    size, num_steps = (int(each) for each in found.groups()) if found else (0, 0)
    if not (2 <= size <= 8 and 1 <= num_steps <= len(STEPS)):
        raise ValueError(f"--cases: expected G2..G8 and T1..T{len(STEPS)}, got {name}")
    members = tuple(member(f"{name} member {index}", index, num_steps) for index in range(size))
    return GroupCase(name, members)


def member(name: str, index: int, num_steps: int) -> Case:
    turns = [
        step(THOUGHTS[(3 * index + number) % len(THOUGHTS)], operation, **moved(arguments, index))
        for number, (operation, arguments) in enumerate(STEPS[:num_steps])
    ]
    last = ANSWER if index % 2 else answer("I know.", "619.30")
    return Case(name, (SCENE,), QUESTION, (*turns, last))


def moved(arguments: dict, index: int) -> dict:
    if "box" not in arguments:
        return arguments
    x0, y0, x1, y1 = arguments["box"]
    return arguments | {"box": [x0 + SHIFT * index, y0, x1 + SHIFT * index, y1]}


def reward_of(index: int) -> float:
    """Of member `index`; no two neighbours have the same."""
    return index % 3 / 2
