"""Who picks a trajectory's next token: the policy's own sampler, or a script (script.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from pixelis_fast.policy.sampling import Sampling, sample
from pixelis_fast.policy.tokenizer import SpecialIds
from pixelis_fast.prompt import Piece
from pixelis_fast.types import Observation


class Chooser(Protocol):
    """Picks the next token of one trajectory."""

    def choose(self, logits_V: Tensor, allowed_V: Tensor | None) -> tuple[int, float]:
        """Next token id and its log-probability; allowed_V is bool, None where all may come."""

    def follow(self, forced: Sequence[int]) -> None:
        """Is told the tokens that the grammar forced after its choice."""

    def observe(self, observation: Observation, piece: Piece) -> Piece:
        """The tokens to append for an observation; a script may pin them."""


class Sampler:
    """Samples from the policy, with its own generator, so that a batch does not change a draw."""

    def __init__(self, sampling: Sampling, *, seed: int, banned_ids: Tensor) -> None:
        self._sampling = sampling
        self._banned_ids = banned_ids
        self._generator = torch.Generator().manual_seed(seed)
        self._step = -1

    def choose(self, logits_V: Tensor, allowed_V: Tensor | None) -> tuple[int, float]:
        self._step += 1
        return sample(
            logits_V,
            sampling=self._sampling,
            generator=self._generator,
            allowed=allowed_V,
            banned_ids=self._banned_ids,
            step=self._step,
        )

    def follow(self, forced: Sequence[int]) -> None:
        """Forced tokens draw nothing."""

    def observe(self, observation: Observation, piece: Piece) -> Piece:
        return piece


class SpanSampler:
    """Draws the inside of a tool call otherwise than the text around it.

    The inside are the tokens after <tool_call> up to </tool_call>, that one included: a trainer
    finds them by the same two tokens.
    """

    def __init__(self, outside: Sampler, inside: Sampler, *, special: SpecialIds) -> None:
        self._outside, self._inside, self._special = outside, inside, special
        self._is_inside = False

    def choose(self, logits_V: Tensor, allowed_V: Tensor | None) -> tuple[int, float]:
        chooser = self._inside if self._is_inside else self._outside
        token, logprob = chooser.choose(logits_V, allowed_V)
        self._pass(token)
        return token, logprob

    def follow(self, forced: Sequence[int]) -> None:
        for token in forced:
            self._pass(token)

    def observe(self, observation: Observation, piece: Piece) -> Piece:
        self._is_inside = False
        return piece

    def _pass(self, token: int) -> None:
        if token == self._special.tool_call_open:
            self._is_inside = True
        elif token in (self._special.tool_call_close, self._special.im_end):
            self._is_inside = False
