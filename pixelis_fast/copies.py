"""Which tokens are copied, and from where: words of an answer, numbers of a call or a thought.

A sign's text or a time reaches the answer from an observation, the larger of two things from the
question that the last turn restates, the times of a call from those printed beside a video's
frames, what a thought quotes from an observation. Guided attention (guidance.py) teaches one head
to look there and to say what it brings; from scratch, imitation alone comes to that last
(`loss/copied`, `loss/named` and `nll/answer` in a run's log).

Shapes: V = tokens of the vocabulary, G = rows that predict a copied token, S = rows of tokens that
were said before a copy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from pixelis_fast.data.prepared import Example
from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.schemas import TIMES
from pixelis_fast.types import Step, TokenRole, Trajectory

CLOSING = 4
"""Tokens behind an answer's text: "</", "answer", ">" and the end of the turn."""
CHOSEN = ("compare",)
"""Tasks whose question names the answers that are possible: the right one is copied from there."""
PRINTED = "<", "seconds"
"""Words around a time beside a frame."""
DIGITS = re.compile(r"[\d.]+")
PLACE = re.compile(r"\d+|,")
COMMAS = 3
"""Of a box."""

Number = tuple[str, ...]
"""Its words."""


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
    """Rows of all that the tools said before a copy, and of what was copied; never none."""

    def to(self, device: torch.device) -> CopiedRows:
        return CopiedRows(*(part.to(device) for part in vars(self).values()))


def copied_rows(examples: Sequence[Example], words: Sequence[str]) -> CopiedRows | None:
    """Of all imitated turns of a batch; None where nothing is copied."""
    found, said, start = [], [], 0
    for example in examples:
        trajectory = example.trajectory
        answer = list(copied_tokens(example, words)) if example.imitated[-1] else []
        numbers = list(copied_numbers(example, words))
        found += [(start + t - 1, start, start + source, True) for t, source in answer + numbers]
        found += [(start + t, start, start + source + 1, False) for t, source in answer[-1:]]
        told = {source for _, source in answer + numbers}
        told.update(said_tokens(trajectory) if answer else ())
        said += [start + token for token in sorted(told)]
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
    observed = tokens_with(trajectory, TokenRole.OBSERVATION)
    return dict.fromkeys(observed) if is_said(trajectory) else {}


def tokens_with(trajectory: Trajectory, role: TokenRole) -> list[int]:
    return [index for index, each in enumerate(trajectory.roles) if each is role]


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


def copied_numbers(example: Example, words: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The same of imitated calls' times, from those that the prompt prints, and of the decimals
    that imitated thoughts quote, from where a tool said them first; of a place's numbers, from
    where it said them last."""
    trajectory = example.trajectory
    said = [words[token] for token in trajectory.ids]
    printed = printed_times(said, trajectory)
    observed = tokens_with(trajectory, TokenRole.OBSERVATION)
    told = numbers_of(said, observed)
    for step, is_imitated in zip(trajectory.steps, example.imitated, strict=True):
        if not is_imitated:
            continue
        arguments = tokens_of(trajectory, step, TokenRole.ARGUMENT)
        times = [i + 2 for i in arguments if said[i] in TIMES]
        yield from copies_at(times, said, within=arguments, found=printed)
        thought = tokens_of(trajectory, step, TokenRole.THOUGHT)
        decimals = [first for number, first in numbers_of(said, thought).items() if "." in number]
        earlier = {number: at for number, at in told.items() if at < step.start}
        yield from copies_at(decimals, said, within=thought, found=earlier)
        yield from copied_places(thought, said, [at for at in observed if at < step.start])


def copied_places(
    thought: Sequence[int], said: Sequence[str], observed: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Of the box that a thought quotes, "158,276,243,339", from where it was observed last."""
    for is_place, run in groupby(thought, in_place(said)):
        place = list(run)
        if not is_place or [said[index] for index in place].count(",") != COMMAS:
            continue
        end, count = place[-1] + 1, len(place)
        for last in reversed(observed):
            if shared_end(said, end, last + 1, limit=count) == count:
                yield from zip(place, range(last + 1 - count, last + 1), strict=True)
                break


def in_place(said: Sequence[str]) -> Callable[[int], bool]:
    return lambda index: PLACE.fullmatch(said[index]) is not None


def copies_at(
    starts: Sequence[int], said: Sequence[str], *, within: Container[int], found: dict[Number, int]
) -> Iterator[tuple[int, int]]:
    for start in starts:
        number = number_at(said, start, within)
        if number in found:
            yield from ((start + n, found[number] + n) for n in range(len(number)))


def printed_times(said: Sequence[str], trajectory: Trajectory) -> dict[Number, int]:
    """Where each time beside a frame begins."""
    opening, closing = PRINTED
    prompt = tokens_with(trajectory, TokenRole.PROMPT)
    return {
        number: first
        for number, first in numbers_of(said, prompt).items()
        if said[first - 1] == opening and said[first + len(number)] == closing
    }


def numbers_of(said: Sequence[str], tokens: Sequence[int]) -> dict[Number, int]:
    """Where each number begins first."""
    within = set(tokens)
    found: dict[Number, int] = {}
    for token in tokens:
        if DIGITS.fullmatch(said[token]) and not (
            token - 1 in within and DIGITS.fullmatch(said[token - 1])
        ):
            found.setdefault(number_at(said, token, within), token)
    return found


def number_at(said: Sequence[str], first: int, within: Container[int]) -> Number:
    """The words of the number that begins there."""
    last = first
    while last in within and DIGITS.fullmatch(said[last]):
        last += 1
    return tuple(said[first:last])
