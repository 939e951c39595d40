"""Chains as data: media, a question, scripted turns, and what is known to be true about them.

The script fixes every generated token; each arm still computes each of them with a forward pass
and really runs each tool. Coordinates 0..1000 of the original frame, times in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.scenes import PAGE_TEXT, scene
from pixelis_fast.schemas import format_call
from pixelis_fast.types import ToolCall


@dataclass(frozen=True)
class Turn:
    """One scripted turn: a thought and a call, or a thought and the answer."""

    thought: str
    call: ToolCall | None = None
    answer: str | None = None
    text: str | None = None
    """What a perfect reader returns for this call, words separated by spaces."""
    object: str | None = None
    """Name of the drawn object a perfect segmenter returns."""

    def as_text(self) -> str:
        """The turn as the policy writes it, without the end-of-turn token."""
        if self.call is None:
            return f"{self.thought}<answer>{self.answer}</answer>"
        return f"{self.thought}<tool_call>\n{format_call(self.call)}\n</tool_call>"


@dataclass(frozen=True)
class Case:
    """One chain.

    Example:
        Case("coins", ("coins",), "Which coin is larger?", (Turn("…", call), Turn("", answer="…")))
    """

    name: str
    scenes: tuple[str, ...]
    question: str
    turns: tuple[Turn, ...]
    segmenter: str = "classical"
    """classical, or sam2 with seeded random weights in both arms."""
    part: str = "full"
    """Which runs take it: full ones, quick, or with --ablate also ablation, which does what one
    mechanism is for and no other chain does."""

    @property
    def calls(self) -> list[ToolCall]:
        return [turn.call for turn in self.turns if turn.call is not None]


def step(thought: str, operation: str, *, text: str | None = None, object: str | None = None,
         **arguments: Any) -> Turn:  # fmt: skip
    return Turn(thought, ToolCall(operation, arguments), text=text, object=object)


def answer(thought: str, words: str) -> Turn:
    return Turn(thought, answer=words)


TOUR = Case(
    "tour",
    ("page", "carphone"),
    "What is the section about, and where is his face?",
    (
        step("The heading.", "read_text", media=0, box=[0, 30, 800, 180],
             text="Region-based segmentation"),
        step("Motion?", "localize", media=1, event="motion"),
        step("His face.", "segment", media=1, box=[300, 200, 700, 800], time=2.0),
        step("Measured.", "properties", mask=0),
        step("Followed.", "track", media=1, box=[300, 200, 700, 800], start=2.0, end=2.1),
        step("Closer.", "zoom", media=1, box=[400, 250, 600, 600], time=2.0),
        answer("", "Segmentation; in the middle"),
    ),
    part="quick",
)  # fmt: skip
"""All six tools on small media: what --quick has minutes for."""

INVOICE = Case(
    "invoice",
    ("invoice",),
    "What is the total due, and what colour is the seal?",
    (
        step("I look at the lower part first.", "zoom", media=0, box=[40, 560, 960, 930]),
        step("Now I read the page.", "read_text", media=0, text=" ".join(scene("invoice").lines)),
        step("And the seal.", "segment", media=0, box=[670, 610, 925, 920], object="seal"),
        step("Its colour is a property of the mask.", "properties", mask=0),
        answer("Both are known.", "619.30, and the seal is red"),
    ),
)

TOTAL = Case(
    "total",
    ("invoice",),
    "What is the total due, and what colour is the seal?",
    (
        step("I read the last line.", "read_text", media=0, box=[40, 590, 680, 690],
             text=scene("invoice").lines[-1]),
        step("And the seal.", "segment", media=0, box=[670, 610, 925, 920], object="seal"),
        step("Its colour is a property of the mask.", "properties", mask=0),
        answer("", "619.30, and the seal is red"),
    ),
)  # fmt: skip

BIKES = Case(
    "bikes",
    ("bikes",),
    "What does the sign on the car say, and does the cyclist move?",
    (
        step("I look for the cuts.", "localize", media=0, event="change"),
        step("The sign, larger.", "zoom", media=0, box=[120, 330, 700, 720], time=2.8),
        step("The cyclist.", "track", media=0, box=[530, 40, 780, 800], start=4.4, end=4.8),
        answer("", "TAXI; the cyclist stands still"),
    ),
)

PHONE = Case(
    "phone",
    ("carphone",),
    "When does he move most, and where is his face?",
    (
        step("I look for motion.", "localize", media=0, event="motion"),
        step("I follow the face.", "track", media=0, box=[300, 200, 700, 800], start=0.0, end=0.4),
        step("A closer look.", "zoom", media=0, box=[300, 200, 700, 800], time=0.4),
        answer("", "Throughout; in the middle"),
    ),
)

PAGE = Case(
    "page",
    ("page",),
    "What is this section about?",
    (
        step("I start with the heading.", "zoom", media=0, box=[0, 30, 800, 180]),
        step("I read it.", "read_text", media=0, box=[0, 30, 800, 180],
             text="Region-based segmentation"),
        step("And how it begins.", "read_text", media=0, box=[0, 235, 1000, 450],
             text=" ".join(PAGE_TEXT[:2])),
        answer("", "Markers for region-based segmentation of coins"),
    ),
)  # fmt: skip

COINS = Case(
    "coins",
    ("coins",),
    "Is the coin at the top right larger than the one two rows below it?",
    (
        step("The first coin.", "segment", media=0, box=[785, 30, 970, 265]),
        step("Its size.", "properties", mask=0),
        step("The second coin.", "segment", media=0, box=[810, 490, 1000, 745]),
        step("Its size.", "properties", mask=1),
        step("I check the first by eye.", "zoom", media=0, box=[760, 0, 1000, 290]),
        step("And the second.", "zoom", media=0, box=[790, 460, 1000, 770]),
        answer("", "No, it is slightly smaller"),
    ),
)

STATION = Case(
    "station",
    ("station", "coffee"),
    "Which platform is it, and which is larger: the disc in the first picture or the cup?",
    (
        step("I read the signs.", "read_text", media=0, box=[0, 80, 1000, 290],
             text=" ".join(scene("station").lines)),
        step("The disc.", "segment", media=0, box=[110, 440, 350, 860], object="disc"),
        step("Measured.", "properties", mask=0),
        step("The cup.", "segment", media=1, box=[270, 30, 700, 790]),
        step("Measured.", "properties", mask=1),
        answer("", "Platform 7; the cup"),
    ),
)  # fmt: skip

BUNNY = Case(
    "bunny",
    ("bunny",),
    "When does the rabbit stretch, and how much of the frame does it fill?",
    (
        step("When does it move?", "localize", media=0, event="motion", box=[100, 50, 550, 900]),
        step("I follow it.", "track", media=0, box=[120, 40, 500, 900], start=2.4, end=3.2),
        step("How large is it?", "properties", mask=0),
        step("A closer look at its face.", "zoom", media=0, box=[280, 40, 480, 400], time=2.6),
        answer("", "From about 2 s; a quarter of the frame"),
    ),
)

RECHECK = Case(
    "recheck",
    ("invoice",),
    "How many crates of pears, and at what price?",
    (
        step("I read the table.", "read_text", media=0, box=[40, 200, 960, 480],
             text=" ".join(scene("invoice").lines[1:4])),
        step("I look at the row.", "zoom", media=0, box=[40, 270, 960, 400]),
        step("I read the table again to be sure.", "read_text", media=0, box=[40, 200, 960, 480],
             text=" ".join(scene("invoice").lines[1:4])),
        answer("Both readings agree.", "7 crates, 204.75"),
    ),
    part="ablation",
)  # fmt: skip

SAM2_COINS = Case(
    "sam2-coins",
    ("coins",),
    "How large is the coin at the top right?",
    (
        step("The coin.", "segment", media=0, box=[785, 30, 970, 265]),
        step("By a point this time.", "segment", media=0, point=[872, 145]),
        step("And its neighbour.", "segment", media=0, point=[715, 165]),
        answer("", "Unknown: random weights"),
    ),
    segmenter="sam2",
)

SAM2_CARPHONE = Case(
    "sam2-carphone",
    ("carphone",),
    "Does the bow tie move?",
    (
        step("I mark it.", "segment", media=0, box=[380, 680, 660, 880], time=0.5),
        step("And follow it.", "track", media=0, box=[380, 680, 660, 880], start=0.5, end=0.7),
        step("A closer look.", "zoom", media=0, box=[300, 600, 740, 950], time=0.5),
        answer("", "Unknown: random weights"),
    ),
    segmenter="sam2",
)

CASES = (
    TOUR,
    TOTAL,
    PHONE,
    INVOICE,
    BIKES,
    PAGE,
    COINS,
    STATION,
    BUNNY,
    SAM2_COINS,
    SAM2_CARPHONE,
    RECHECK,
)


def chosen_cases(*, quick: bool, ablate: bool, names: tuple[str, ...] = ()) -> list[Case]:
    """The quick one or the full set, with those of --ablate when it is given; or those named."""
    known = {case.name: case for case in CASES}
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"--cases: expected some of {', '.join(known)}, got {', '.join(unknown)}")
    if names:
        return [known[name] for name in names]
    parts = {"quick" if quick else "full"} | ({"ablation"} if ablate else set())
    return [case for case in CASES if case.part in parts]
