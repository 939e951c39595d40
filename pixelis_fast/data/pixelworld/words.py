"""Colours, shapes, codes and the wording of questions.

Train and val share wordings, train has further ones; test asks partly in its own, made of words
that train uses. The texts on signs are of one split alone: a checksum of the text says which.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np

from pixelis_fast.data.pixelworld.config import Brief

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (212, 38, 42),
    "green": (38, 160, 66),
    "blue": (46, 82, 214),
    "yellow": (240, 210, 48),
    "purple": (136, 52, 176),
    "cyan": (60, 200, 208),
}
SHAPES = ("disk", "square", "triangle", "star", "ring", "cross")
SOLID = ("disk", "square", "triangle", "star")
"""Shapes with their centre filled: a point there lies on them."""
CODE_LETTERS = "ACDEFHJKLMNPRTUWXY"
CODE_DIGITS = "34679"
SIGN_WORDS = (
    *("open", "start", "stop", "north", "east", "west", "home", "room", "gate", "rest", "door"),
    *("exit", "king", "fish", "bird", "farm", "lake", "snow", "rain", "wind", "fire", "gold"),
    *("wood", "road", "park", "bank", "shop", "food", "tree", "hand", "book", "time", "line"),
    *("name", "star", "moon", "rock", "boat", "train", "street", "garden", "bridge", "market"),
    *("office", "school", "tower", "hotel", "museum", "river", "island"),
)
QUIRKS = {"test": 0, "val": 1}
"""Remainder of a text's checksum by five that makes it a split's own; the rest is train's."""

# Per use: wordings of train and val, then those of test.
WORDINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "read": (
        (
            "what does the sign beside the {x} say",
            "read the text near the {x}",
            "which word or code is on the sign next to the {x}",
            "what is written beside the {x}",
        ),
        ("what is written on the sign near the {x}", "what does the text next to the {x} say"),
    ),
    "compare": (
        (
            "which is larger, the {x} or the {y}",
            "is the {x} or the {y} larger",
            "which one is bigger, the {x} or the {y}",
        ),
        ("is the {x} or the {y} bigger", "which one is larger, the {x} or the {y}"),
    ),
    "count": (
        (
            "how many dots are beside the {x}",
            "count the dots in the panel next to the {x}",
            "how many dots are in the panel near the {x}",
        ),
        ("how many dots are next to the {x}", "count the dots near the {x}"),
    ),
    "spatial_shape": (
        (
            "which shape is {at} in the panel beside the {x}",
            "what is {at} in the panel near the {x}",
            "next to the {x} is a panel, which shape is {at}",
        ),
        ("which shape is {at} in the panel near the {x}",),
    ),
    "spatial_color": (
        (
            "which color is {at} in the panel beside the {x}",
            "what color is {at} in the panel near the {x}",
            "next to the {x} is a panel, which color is {at}",
        ),
        ("which color is {at} in the panel near the {x}",),
    ),
    "track": (
        (
            "where does the ball end that starts {at}",
            "the ball {at} moves, where is it at the end",
            "follow the ball that starts {at}, where does it stop",
        ),
        ("the ball that starts {at} moves, where does it end", "where does the ball {at} stop"),
    ),
    "localize_appearance": (
        ("when does the {x} appear", "at which second is the {x} first seen"),
        ("at which second does the {x} appear",),
    ),
    "localize_change": (
        ("when does the scene change", "at which second is there a new background"),
        ("at which second does the scene change", "when is there a new background"),
    ),
    "localize_motion": (
        ("when does the {x} start to move", "at which second does the motion of the {x} begin"),
        ("at which second does the {x} start to move", "when does the motion of the {x} begin"),
    ),
    "multi": (
        (
            "what does the sign beside the larger {x} say",
            "read the text near the bigger {x}",
            "which word or code is next to the larger {x}",
        ),
        ("what does the text near the bigger {x} say", "read the sign next to the larger {x}"),
    ),
}


FURTHER: dict[str, tuple[str, ...]] = {
    "read": (
        "what does the sign near the {x} say",
        "read the sign beside the {x}",
        "what text is next to the {x}",
        "which word or code is near the {x}",
        "there is a sign near the {x}, read it",
        "what is written on the sign beside the {x}",
    ),
    "compare": (
        "which is bigger, the {x} or the {y}",
        "the {x} or the {y}, which one is larger",
        "what is larger, the {x} or the {y}",
        "of the {x} and the {y}, which is bigger",
        "is the {x} larger or the {y}",
        "which of the two is larger, the {x} or the {y}",
    ),
    "count": (
        "how many dots are near the {x}",
        "count the dots beside the {x}",
        "how many dots are in the panel next to the {x}",
        "count the dots in the panel near the {x}",
        "near the {x} is a panel, how many dots are in it",
    ),
    "spatial_shape": (
        "which shape is {at} in the panel next to the {x}",
        "what shape is {at} in the panel beside the {x}",
        "beside the {x} is a panel, what is {at}",
        "in the panel near the {x}, which shape is {at}",
    ),
    "spatial_color": (
        "which color is {at} in the panel next to the {x}",
        "what color is {at} in the panel beside the {x}",
        "beside the {x} is a panel, what color is {at}",
        "in the panel near the {x}, which color is {at}",
    ),
    "track": (
        "where is the ball at the end that starts {at}",
        "follow the ball {at}, where is it at the end",
        "the ball starts {at}, where does it stop",
        "where does the ball {at} end",
    ),
    "localize_appearance": (
        "when is the {x} first seen",
        "at which second is there a {x}",
    ),
    "localize_change": (
        "when does the background change",
        "at which second is there a new scene",
    ),
    "localize_motion": (
        "when does the {x} begin to move",
        "at which second does the {x} begin to move",
    ),
    "multi": (
        "what does the sign next to the bigger {x} say",
        "read the sign beside the bigger {x}",
        "what is written near the larger {x}",
        "which word or code is beside the bigger {x}",
        "read the text next to the larger {x}",
        "what does the text beside the larger {x} say",
    ),
}
"""Of train alone, none of them test's own: behind two to four wordings a kind, a policy had 72 % of
val's questions right and 59 % of test's."""


def wordings(use: str) -> tuple[str, ...]:
    """Of train."""
    return WORDINGS[use][0] + FURTHER[use]


def wording(brief: Brief, use: str, **fields: str) -> str:
    """A question; test asks in its own wordings as often as in train's and val's."""
    usual, own = WORDINGS[use]
    choices = own if brief.split == "test" and brief.chance(0.5) else usual
    if brief.split == "train":
        choices = wordings(use)
    template = choices[brief.whole(0, len(choices) - 1)]
    return template.format(**fields) + ("?" if brief.chance(0.5) else "")


def sign_text(brief: Brief) -> str:
    """A code of 2 to 4 signs, or now and then a word; of the brief's split."""
    while True:
        text = _word(brief.rng) if brief.chance(0.3) else code_text(brief.rng)
        if is_of_split(text, brief.split):
            return text


def is_of_split(text: str, split: str) -> bool:
    remainder = crc32(text.encode()) % 5
    return remainder == QUIRKS[split] if split in QUIRKS else remainder not in QUIRKS.values()


def distinct_texts(brief: Brief, count: int) -> list[str]:
    texts: list[str] = []
    while len(texts) < count:
        text = sign_text(brief)
        if text not in texts:
            texts.append(text)
    return texts


def _word(rng: np.random.Generator) -> str:
    return SIGN_WORDS[rng.integers(len(SIGN_WORDS))]


def code_text(rng: np.random.Generator) -> str:
    """2 to 4 capitals and digits."""
    letters = CODE_LETTERS + CODE_DIGITS * 3
    return "".join(letters[n] for n in rng.integers(len(letters), size=rng.integers(2, 5)))


def names(brief: Brief, count: int, shapes: tuple[str, ...] = SHAPES) -> list[tuple[str, str]]:
    """So many different (colour, shape) pairs."""
    pairs = [(color, shape) for color in COLORS for shape in shapes]
    return [pairs[n] for n in brief.rng.permutation(len(pairs))[:count]]


def distinct_names(brief: Brief, count: int) -> list[tuple[str, str]]:
    """Pairs of which no two share a colour or a shape; up to six."""
    colors, shapes = brief.rng.permutation(len(COLORS)), brief.rng.permutation(len(SHAPES))
    return [(list(COLORS)[c], SHAPES[s]) for c, s in zip(colors[:count], shapes, strict=False)]
