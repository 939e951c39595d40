"""Exercises in what follows from a tool's words, without a picture.

A chain says one pair of areas, one track or one sign in hundreds of tokens; a policy that has seen
ten thousand chains still calls 5.8 larger than 6.5, a box at the left edge the right one, and
writes 'stm' for 'street', whose 'reet' no other word has. Here an example is such a pair, such a
track or such a text and what is said of it. What is learned without a picture holds behind one.

Shapes: R = rows of a track.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pixelis_fast.data.cota import CotaTurn
from pixelis_fast.data.pixelworld.track import BALL_SHARE, PLACES, SLOTS
from pixelis_fast.data.pixelworld.words import COLORS, SHAPES, wordings
from pixelis_fast.data.plans import place_said, quoting, restated
from pixelis_fast.data.prepared import Example
from pixelis_fast.data.retold import other_areas, other_text
from pixelis_fast.data.traces import TraceBuilder
from pixelis_fast.observations import compact_json
from pixelis_fast.types import Observation, Sample, ToolCall

DRILL = "-drill-"
"""In the ids of samples without a picture."""
PAIRS, TEXTS = 8, 8
"""Comparisons and signs of a group."""
LONG_TEXT = 24
"""Tokens of the longest sign. A copy is learned token by token, and signs of two say each of 797
once in ten steps: 72 of 120 texts were wrong behind them."""
ROWS = 4, 17
"""Of a track: fewest, most."""
FRAME_S = 0.1, 0.2
OFF = 30
"""Thousandths by which a tracker's box may lie off the ball, and be larger."""


class Drills:
    """Makes the exercises of one split.

    Example:
        for example in Drills(builder, "train").group(7, rng): ...
    """

    def __init__(self, builder: TraceBuilder, split: str, pieces: Sequence[str]) -> None:
        """`pieces`: of words that a sign may say."""
        self._builder, self._split, self._pieces = builder, split, pieces

    def group(self, number: int, rng: np.random.Generator) -> Iterator[Example]:
        """A track, some signs and some comparisons."""
        name = f"{self._split}-{number}{DRILL}"
        yield self._track(f"track-{name}0", rng)
        for text in range(TEXTS):
            yield self._sign(f"read-{name}{text}", rng)
        for pair in range(PAIRS):
            yield self._comparison(f"compare-{name}{pair}", rng)

    def _comparison(self, name: str, rng: np.random.Generator) -> Example:
        """Which of two decimals is larger, asked as it is of two things."""
        areas = other_areas(rng)
        template = str(rng.choice(wordings("compare"))).replace("the {", "{")
        question = template.format(x=areas[0], y=areas[1])
        thought = quoting(restated(question), question, areas)
        sample = Sample(name, (), question, answer=str(max(areas)))
        trajectory = self._builder.build(sample, [], answer=sample.answer, thought=thought)
        return Example(trajectory, (True,), "compare", 0.0)

    def _track(self, name: str, rng: np.random.Generator) -> Example:
        """Where a track ends, as a tracker would tell it."""
        across = bool(rng.integers(2))
        start, end = rng.integers(3, size=2)
        (_, at), (answer, _) = PLACES[across][start], PLACES[across][end]
        question = str(rng.choice(wordings("track"))).format(at=at)
        rows = track_of(int(start), int(end), rng, across=across)
        said = compact_json({"track": rows, "mask": 0, "degraded": True})
        times = {"start": 0.0, "end": rows[-1][0]}
        call = ToolCall("track", {"media": 0, "box": rows[0][1:], **times})
        thought = restated(question, f"{place_said(rows[-1])}\n")
        sample = Sample(name, (), question, answer=answer)
        return self._told(sample, CotaTurn(f"i follow the ball {at}", call), said, thought)

    def _sign(self, name: str, rng: np.random.Generator) -> Example:
        """What a sign says, as a reader would tell it."""
        text = other_text(rng, self._split, self._pieces, most=LONG_TEXT)
        thing = f"{rng.choice(list(COLORS))} {rng.choice(SHAPES)}"
        question = str(rng.choice(wordings("read"))).format(x=thing)
        x, y = rng.integers(0, 900, 2).tolist()
        wide, high = rng.integers(40, 100, 2).tolist()
        said = compact_json({"lines": [{"text": text, "box": [x, y, x + wide, y + high]}]})
        call = ToolCall("read_text", {"media": 0, "box": [x, y, x + 100, y + 100]})
        sample = Sample(name, (), question, answer=text)
        return self._told(sample, CotaTurn("i read the text", call), said, restated(question))

    def _told(self, sample: Sample, turn: CotaTurn, said: str, thought: str) -> Example:
        """One call, not run, and the answer that follows from what is said of it."""
        told = [Observation(said)]
        trajectory = self._builder.build(
            sample, [turn], answer=sample.answer, thought=thought, told=told
        )
        return Example(trajectory, (False, True), sample.id.partition("-")[0], 0.0)


def track_of(
    start: int, end: int, rng: np.random.Generator, *, across: bool
) -> list[list[float | int]]:
    """(R, 5): seconds and a box, from one of three places to another, to rest there or nearly."""
    count = int(rng.integers(ROWS[0], ROWS[1] + 1))
    rest = int(rng.integers(0, max(count // 2, 1)))
    share_R = np.clip(np.arange(count) / max(count - 1 - rest, 1), 0, 1)
    along_R = SLOTS[start] + (SLOTS[end] - SLOTS[start]) * share_R
    off_R = rng.uniform(0.35, 0.65) + rng.uniform(-0.25, 0.25) * np.sin(np.pi * share_R)
    middle_R2 = np.stack([along_R, off_R] if across else [off_R, along_R], axis=1) * 1000
    middle_R2 = middle_R2 + rng.uniform(-OFF, OFF, 2) + rng.uniform(-4, 4, (count, 2))
    half_2 = (rng.uniform(*BALL_SHARE) * 1000 + rng.uniform(0, OFF, 2)) / 2
    boxes_R4 = np.concatenate([middle_R2 - half_2, middle_R2 + half_2], axis=1)
    boxes_R4 = np.clip(boxes_R4.round(), 0, 1000).astype(int)
    seconds = rng.uniform(*FRAME_S)
    return [[round(n * seconds, 1), *boxes_R4[n].tolist()] for n in range(count)]
