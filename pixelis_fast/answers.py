"""Which answers are of a panel that the last picture shows, and the visual token that shows it.

A crop's answer is a few pixels behind hundreds of tokens. Guided attention (guidance.py) teaches
one head to look at the token where the panel's centre lies, and that token's value to tell what the
panel holds: `loss/answer attention`, `loss/answer contents` and `answer_looked_right` in a log.

Shapes: N = rows of the batch, G = rows that predict a token of such an answer, M = visual tokens of
all trajectories, C = kinds of contents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from pixelis_fast.copies import CLOSING, copied_tokens
from pixelis_fast.data.prepared import SEEN, Example, TokenLabels
from pixelis_fast.training_batch import TrainingBatch
from pixelis_fast.types import TokenRole, Trajectory

OPENING = 1
"""Tokens before an answer's text: "<answer". Its ">" may be one token with the first word."""


@dataclass(frozen=True)
class AnswerRows:
    """Rows of a batch whose next token is of an answer that a picture shows."""

    rows_G: Tensor
    starts_G: Tensor
    """First row each may see."""
    wanted_G: Tensor
    """Row of the visual token that shows the answer."""
    contents_GC: Tensor
    """What it shows, by kind."""


def answer_rows(
    examples: Sequence[Example],
    batch: TrainingBatch,
    labels: TokenLabels | None,
    words: Sequence[str],
) -> AnswerRows | None:
    """Of all imitated answers of a batch that are no copies (`words`: copies.words_of); None where
    none is shown by a picture.

    A picture with two such panels is left out: which is meant is not known here.
    """
    if labels is None or batch.feature_index_M is None or batch.visual_index_M is None:
        return None
    contents_MC = labels.kinds_ML[batch.feature_index_M][:, SEEN:]
    if not contents_MC.shape[1]:
        return None
    shows_M = (contents_MC >= 0).all(dim=1)
    shown = dict(zip(batch.visual_index_M[shows_M].tolist(), contents_MC[shows_M], strict=True))
    starts = [0, *accumulate(batch.lengths)]
    found = [
        (row, start, wanted)
        for example, start in zip(examples, starts, strict=False)
        if example.imitated[-1] and not any(copied_tokens(example, words))
        for row, wanted in shown_tokens(example.trajectory, start, shown)
    ]
    if not found:
        return None
    rows_G, starts_G, wanted_G = torch.tensor(found, device=contents_MC.device).unbind(1)
    contents_GC = torch.stack([shown[wanted] for *_, wanted in found])
    return AnswerRows(rows_G, starts_G, wanted_G, contents_GC)


def shown_tokens(
    trajectory: Trajectory, start: int, shown: dict[int, Tensor]
) -> Iterator[tuple[int, int]]:
    """(row that predicts a token of the answer, row that shows it)."""
    if trajectory.answer is None or not trajectory.spans:
        return
    last = trajectory.spans[-1]
    first = start + last.start
    wanted = [row for row in range(first, first + last.num_tokens) if row in shown]
    if len(wanted) != 1:
        return
    answer = [i for i, role in enumerate(trajectory.roles) if role is TokenRole.ANSWER]
    for index in answer[OPENING : len(answer) - CLOSING]:
        yield start + index - 1, wanted[0]
