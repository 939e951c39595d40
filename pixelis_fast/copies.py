"""Which tokens are copied, and from where: words of an answer, and times of a call.

A sign's text or a time reaches the answer from an observation, the larger of two things from the
question that the last turn restates, the times of a call from those printed beside a video's
frames. Guided attention (guidance.py) teaches one head to look there and to say what it brings;
from scratch, imitation alone comes to that last (`loss/copied`, `loss/named` and `nll/answer` in a
run's log).

Shapes: V = tokens of the vocabulary, G = rows that predict a copied token, S = rows of tokens that
were said before a copy.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelis_fast.data.prepared import Example
from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.types import Step, TokenRole, Trajectory

CLOSING = 4
"""Tokens behind an answer's text: "</", "answer", ">" and the end of the turn."""
CHOSEN = ("compare",)
"""Tasks whose question names the answers that are possible: the right one is copied from there."""
TIMES = ("time", "start", "end")
PRINTED = "<", "seconds"
"""Words around a time beside a frame."""


def words_of(tokenizer: Tokenizer) -> list[str]:
    """Every token's text (V), without a mark before its letters: " red", ">red" and '"red' are one
    word, which is another token in a question, in an answer and in an observation."""
    texts = tokenizer.hf.batch_decode([[index] for index in range(tokenizer.vocab_size)])
    return [text[1:] if re.fullmatch(r"[\s>\"][A-Za-z]+", text) else text for text in texts]


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
    """Rows of all that the tools said before a copy, and of the times that were printed."""

    def to(self, device: torch.device) -> CopiedRows:
        return CopiedRows(*(part.to(device) for part in vars(self).values()))


def copied_rows(examples: Sequence[Example], words: Sequence[str]) -> CopiedRows | None:
    """Of all imitated answers and calls of a batch; None where nothing is copied."""
    found, said, start = [], [], 0
    for example in examples:
        trajectory = example.trajectory
        answer = list(copied_tokens(example, words)) if example.imitated[-1] else []
        times = list(copied_times(example, words))
        found += [(start + t - 1, start, start + source, True) for t, source in answer + times]
        found += [(start + t, start, start + source + 1, False) for t, source in answer[-1:]]
        said += [start + token for token in said_tokens(trajectory)] if answer else []
        said += sorted({start + source for _, source in times})
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


def copied_tokens(example: Example, words: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(index of a token of the answer, index of the token that it copies), one run."""
    trajectory = example.trajectory
    allowed = sources(example)
    if not allowed or trajectory.answer is None:
        return
    said = [words[token] for token in trajectory.ids]
    answer = [i for i, role in enumerate(trajectory.roles) if role is TokenRole.ANSWER]
    end = answer[-1] + 1 - CLOSING
    best: tuple[int, int] | None = None
    length = 0
    for last in allowed:
        run = shared_end(said, end, last + 1, limit=end - answer[0])
        if run > length and all(last - back in allowed for back in range(run)):
            best, length = (end - run, last + 1 - run), run
    if best is not None:
        yield from ((best[0] + step, best[1] + step) for step in range(length))


def sources(example: Example) -> dict[int, None]:
    """Indices of the tokens that the answer may be copied from, in order."""
    trajectory = example.trajectory
    if example.task in CHOSEN:
        last = trajectory.steps[-1]
        return dict.fromkeys(tokens_of(trajectory, last, TokenRole.THOUGHT))
    roles = enumerate(trajectory.roles)
    observed = (index for index, role in roles if role is TokenRole.OBSERVATION)
    return dict.fromkeys(observed) if is_said(trajectory) else {}


def tokens_of(trajectory: Trajectory, step: Step, role: TokenRole) -> list[int]:
    return [i for i in range(step.start, step.end) if trajectory.roles[i] is role]


def is_said(trajectory: Trajectory) -> bool:
    """Whether an observation holds the answer as a word or a number of its own."""
    if not trajectory.answer:
        return False
    word = re.compile(rf"(?<![\w.]){re.escape(trajectory.answer)}(?![\w.])")
    texts = [step.observation.text for step in trajectory.steps if step.observation is not None]
    return any(word.search(text) for text in texts)


def shared_end(said: Sequence[str], end: int, other: int, *, limit: int) -> int:
    """How many words before `end` equal those before `other`, at most `limit`."""
    run = 0
    while run < min(limit, other) and said[end - 1 - run] == said[other - 1 - run]:
        run += 1
    return run


def copied_times(example: Example, words: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The same of the times of imitated calls, from those that the prompt prints."""
    trajectory = example.trajectory
    called = [
        step
        for step, is_imitated in zip(trajectory.steps, example.imitated, strict=False)
        if is_imitated and step.call is not None and set(TIMES) & set(step.call.arguments)
    ]
    if not called:
        return
    said = [words[token] for token in trajectory.ids]
    printed = printed_times(said, trajectory)
    for step in called:
        tokens = tokens_of(trajectory, step, TokenRole.ARGUMENT)
        for first in (i + 2 for i in tokens if said[i] in TIMES):
            number = number_at(said, first, tokens)
            source = printed.get(number)
            if source is not None:
                yield from ((first + n, source + n) for n in range(len(number)))


def printed_times(said: Sequence[str], trajectory: Trajectory) -> dict[tuple[str, ...], int]:
    """Where the words of each time begin."""
    opening, closing = PRINTED
    prompt = range(trajectory.steps[0].start)
    return {
        number: i + 1
        for i in prompt
        if said[i] == opening
        and (number := number_at(said, i + 1, prompt))
        and said[i + 1 + len(number)] == closing
    }


def number_at(said: Sequence[str], first: int, within: Container[int]) -> tuple[str, ...]:
    """The words of the number that begins there."""
    last = first
    while last in within and re.fullmatch(r"[\d.]+", said[last]):
        last += 1
    return tuple(said[first:last])
