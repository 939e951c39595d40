"""Which tokens of an answer a tool said word for word, and where.

A sign's text or a time reaches the answer by being copied from an observation. Guided attention
(guidance.py) teaches one head to look there and to say what it brings; from scratch, imitation
alone comes to that last (`loss/copied`, `loss/named` and `nll/answer` in a run's log).

Shapes: G = rows that predict a copied token, S = rows of tokens that tools said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelis_fast.types import TokenRole, Trajectory

CLOSING = 4
"""Tokens behind an answer's text: "</", "answer", ">" and the end of the turn."""


@dataclass(frozen=True)
class CopiedRows:
    """Rows of a batch whose next token is a copy."""

    rows_G: Tensor
    starts_G: Tensor
    """First row each may see."""
    wanted_G: Tensor
    """Row of the token that it copies; for the end of an answer, of the one behind its source."""
    copies_G: Tensor
    """False at the end of an answer: what stands behind the source is looked at and not said."""
    said_S: Tensor
    """Rows of all that the tools said before a copy."""

    def to(self, device: torch.device) -> CopiedRows:
        return CopiedRows(*(part.to(device) for part in vars(self).values()))


def copied_rows(
    trajectories: Sequence[Trajectory], imitated: Sequence[Sequence[bool]]
) -> CopiedRows | None:
    """Of all imitated answers of a batch; None where nothing is copied."""
    found, said, start = [], [], 0
    for trajectory, marks in zip(trajectories, imitated, strict=True):
        pairs = list(copied_tokens(trajectory)) if marks[-1] else []
        found += [(start + token - 1, start, start + source, True) for token, source in pairs]
        found += [(start + t, start, start + source + 1, False) for t, source in pairs[-1:]]
        said += [start + token for token in said_tokens(trajectory)] if pairs else []
        start += len(trajectory.ids)
    if not found:
        return None
    rows_G, starts_G, wanted_G, copies_G = torch.tensor(found).unbind(1)
    return CopiedRows(rows_G, starts_G, wanted_G, copies_G.bool(), torch.tensor(said))


def said_tokens(trajectory: Trajectory) -> Iterator[int]:
    """Of the observations, but for pictures."""
    pictures = {s.start + i for s in trajectory.spans for i in range(s.num_tokens)}
    for index, role in enumerate(trajectory.roles):
        if role is TokenRole.OBSERVATION and index not in pictures:
            yield index


def copied_tokens(trajectory: Trajectory) -> Iterator[tuple[int, int]]:
    """(index of a token of the answer, index of the token that it copies), one run."""
    if not is_said(trajectory):
        return
    ids, roles = trajectory.ids, trajectory.roles
    answer = [index for index, role in enumerate(roles) if role is TokenRole.ANSWER]
    end = answer[-1] + 1 - CLOSING
    best: tuple[int, int] | None = None
    length = 0
    for last in range(answer[0]):
        run = shared_end(ids, end, last + 1, limit=end - answer[0])
        observed = all(roles[last - back] is TokenRole.OBSERVATION for back in range(run))
        if run > length and observed:
            best, length = (end - run, last + 1 - run), run
    if best is not None:
        yield from ((best[0] + step, best[1] + step) for step in range(length))


def is_said(trajectory: Trajectory) -> bool:
    """Whether an observation holds the answer as a word or a number of its own."""
    if not trajectory.answer:
        return False
    word = re.compile(rf"(?<![\w.]){re.escape(trajectory.answer)}(?![\w.])")
    texts = [step.observation.text for step in trajectory.steps if step.observation is not None]
    return any(word.search(text) for text in texts)


def shared_end(ids: Sequence[int], end: int, other: int, *, limit: int) -> int:
    """How many tokens before `end` equal those before `other`, at most `limit`."""
    run = 0
    while run < min(limit, other) and ids[end - 1 - run] == ids[other - 1 - run]:
        run += 1
    return run
