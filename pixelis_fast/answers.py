"""Which answers the last picture shows, and the visual token that shows each.

A crop's answer is a few pixels behind hundreds of tokens. Guided attention (guidance.py) teaches
one head to look at the token where it lies (`Example.shown_at`: the panel whose dots are counted,
the glyph that is asked for), that token's value to tell what it shows, and what the head writes to
say the answer: `loss/answer attention`, `loss/answer contents`, `loss/answer named` and
`answer_looked_right` in a log.

Shapes: N = rows of the batch, G = rows that predict a token of such an answer, M = visual tokens
of all trajectories, C = kinds of contents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from pixelis_fast.copies import CLOSING
from pixelis_fast.crops import UNITS
from pixelis_fast.data.prepared import SMALL, Example, TokenLabels
from pixelis_fast.head_targets import cell_of
from pixelis_fast.training_batch import TrainingBatch
from pixelis_fast.types import Point, TokenRole, VisionSpan

OPENING = 1
"""Tokens before an answer's text: "<answer". Its ">" may be one token with the first word."""
MARK = ">"


@dataclass(frozen=True)
class AnswerRows:
    """Rows of a batch whose next token is of an answer that a picture shows."""

    rows_G: Tensor
    starts_G: Tensor
    """First row each may see."""
    wanted_G: Tensor
    """Row of the visual token that shows the answer."""
    first_G: Tensor
    """Whether the next token is the answer's first: what one token shows says no more."""
    contents_GC: Tensor
    """What the token shows, by kind; UNKNOWN where no label says it."""


def answer_rows(
    examples: Sequence[Example],
    batch: TrainingBatch,
    labels: TokenLabels | None,
    words: Sequence[str],
    *,
    merge: int,
) -> AnswerRows | None:
    """Of all imitated answers that a picture shows (`words`: copies.words_of); None without any."""
    if labels is None or batch.feature_index_M is None or batch.visual_index_M is None:
        return None
    found = list(shown_tokens(examples, words, merge))
    if not found:
        return None
    kinds_MC = labels.kinds_ML[batch.feature_index_M][:, list(contents_of(labels.num_kinds))]
    place = {row: index for index, row in enumerate(batch.visual_index_M.tolist())}
    rows_G, starts_G, wanted_G, first_G = torch.tensor(found, device=kinds_MC.device).unbind(1)
    contents_GC = kinds_MC[[place[wanted] for _, _, wanted, _ in found]]
    return AnswerRows(rows_G, starts_G, wanted_G, first_G.bool(), contents_GC)


def contents_of(num_kinds: int) -> Iterator[int]:
    """The kinds of labels that an answer may be about: all but the small thing in a token."""
    return (kind for kind in range(num_kinds) if kind != SMALL)


def shown_tokens(
    examples: Sequence[Example], words: Sequence[str], merge: int
) -> Iterator[tuple[int, int, int, bool]]:
    """(row that predicts a token of the answer, first row, row that shows it, whether that token is
    the answer's first)."""
    starts = [0, *accumulate(len(example.trajectory.ids) for example in examples)]
    for example, start in zip(examples, starts, strict=False):
        trajectory = example.trajectory
        if example.shown_at is None or not example.imitated[-1]:
            continue
        wanted = start + token_at(example.shown_at, trajectory.spans[-1], merge)
        answer = [i for i, role in enumerate(trajectory.roles) if role is TokenRole.ANSWER]
        said = answer[OPENING : len(answer) - CLOSING]
        first = next(index for index in said if words[trajectory.ids[index]] != MARK)
        yield from ((start + index - 1, start, wanted, index == first) for index in said)


def token_at(place: Point, span: VisionSpan, merge: int) -> int:
    """Index in its trajectory of the visual token that holds a place, in thousandths."""
    x, y = (value / UNITS for value in place)
    return span.start + cell_of((x, y, 0.0, 0.0), span, merge)
