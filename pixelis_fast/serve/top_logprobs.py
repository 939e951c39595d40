"""Records the likeliest tokens beside each sampled one, in the distribution it was drawn from.

That is softmax(logits / temperature) over the tokens that may be sampled, as the recorded
log-probability's own (policy/sampling.py); greedy decoding records temperature 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pixelis_fast.policy.sampling import Sampling, mask_logits
from pixelis_fast.prompt import Piece
from pixelis_fast.rollout import Sampler
from pixelis_fast.types import Observation

Ranked = list[tuple[int, float]]
"""(token id, log-probability), likeliest first."""


class RecordingSampler:
    """A sampler that keeps the `count` likeliest of every step.

    Example:
        sampler = RecordingSampler(Sampling(seed=3), banned_ids=loop.banned_ids, count=5)
        sampler.ranked[0]  # of the first generated token
    """

    def __init__(self, sampling: Sampling, *, banned_ids: Tensor, count: int) -> None:
        self._sampler = Sampler(sampling, seed=sampling.seed, banned_ids=banned_ids)
        self._temperature = sampling.temperature or 1.0
        self._banned_ids, self._count = banned_ids, count
        self.ranked: list[Ranked] = []
        """One per generated token; a forced one stands alone with probability 1."""

    def choose(self, logits_V: Tensor, allowed_V: Tensor | None) -> tuple[int, float]:
        token, logprob = self._sampler.choose(logits_V, allowed_V)
        open_V = mask_logits(logits_V, allowed=allowed_V, banned_ids=self._banned_ids)
        logprobs_V = torch.log_softmax(open_V / self._temperature, dim=-1)
        top_K, ids_K = logprobs_V.topk(min(self._count, logprobs_V.numel()))
        pairs = zip(ids_K.tolist(), top_K.tolist(), strict=True)
        # What may not be sampled has -inf, which is no JSON.
        self.ranked.append([(i, value) for i, value in pairs if value > -torch.inf])
        return token, logprob

    def follow(self, forced: Sequence[int]) -> None:
        self._sampler.follow(forced)
        self.ranked += [[(token, 0.0)] for token in forced]

    def observe(self, observation: Observation, piece: Piece) -> Piece:
        return self._sampler.observe(observation, piece)
