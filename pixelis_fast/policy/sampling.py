"""One token from one row of logits, with its log-probability.

The log-probability is that of softmax(logits / temperature) over the tokens that may be sampled:
allowed by the grammar and not banned. Top-k and top-p only narrow the draw and are not part of it,
so a trainer recomputes it from logits, mask and temperature alone. Greedy decoding (temperature 0)
records it at temperature 1. Knows no grammar and no token's meaning. Shapes: V = vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

SEEDS_APART = 0x9E3779B1
"""2^32 over the golden ratio: its multiples spread evenly."""


@dataclass(frozen=True)
class Sampling:
    """How to draw.

    Example:
        Sampling(temperature=0.8, top_p=0.95, seed=7)
    """

    temperature: float = 0.0
    """0 takes the largest logit."""
    top_k: int = 0
    """0 keeps all."""
    top_p: float = 1.0
    """Keeps the smallest set of tokens whose probabilities reach it."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature: expected at least 0, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k: expected at least 0, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: expected a number in (0, 1], got {self.top_p}")

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """A fresh stream of this seed."""
        return torch.Generator(device=device).manual_seed(self.seed)


def sample(
    logits_V: Tensor,
    *,
    sampling: Sampling,
    generator: torch.Generator | None = None,
    allowed: Tensor | None = None,
    banned_ids: Tensor | Collection[int] = (),
    step: int = 0,
) -> tuple[int, float]:
    """(token id, log-probability); `step` names the decode step in an error."""
    open_V = mask_logits(logits_V, allowed=allowed, banned_ids=banned_ids)
    _check_finite(open_V, step=step)
    logprobs_V = torch.log_softmax(open_V / (sampling.temperature or 1.0), dim=-1)
    token = int(_draw(logprobs_V, sampling, generator))
    return token, float(logprobs_V[token])


def mask_logits(
    logits_V: Tensor,
    *,
    allowed: Tensor | None = None,
    banned_ids: Tensor | Collection[int] = (),
) -> Tensor:
    """fp32 logits with -inf where a token may not be sampled; a trainer masks with the same."""
    if logits_V.dim() != 1:
        raise ValueError(f"logits_V: expected one row (V,), got {tuple(logits_V.shape)}")
    open_V = logits_V.float().clone()
    if allowed is not None:
        open_V.masked_fill_(~_fit(allowed, open_V), -torch.inf)
    if len(banned_ids):
        ids = torch.as_tensor(
            banned_ids if isinstance(banned_ids, Tensor) else list(banned_ids),
            dtype=torch.long,
            device=open_V.device,
        )
        open_V.index_fill_(0, ids, -torch.inf)
    return open_V


def _fit(allowed_V: Tensor, logits_V: Tensor) -> Tensor:
    if allowed_V.dtype != torch.bool or allowed_V.shape != logits_V.shape:
        raise ValueError(
            f"allowed: expected bool {tuple(logits_V.shape)}, "
            f"got {allowed_V.dtype} {tuple(allowed_V.shape)}"
        )
    return allowed_V.to(logits_V.device)


def _check_finite(open_V: Tensor, *, step: int) -> None:
    # The maximum carries a NaN, and is -inf only if nothing is left: one reduction, one transfer.
    peak = float(open_V.max())
    if peak == -math.inf:
        raise ValueError(f"step {step}: expected a token that may be sampled, got none")
    if not math.isfinite(peak):
        raise ValueError(f"step {step}: expected finite logits, got a maximum of {peak}")


def _draw(logprobs_V: Tensor, sampling: Sampling, generator: torch.Generator | None) -> Tensor:
    if sampling.temperature == 0:
        return logprobs_V.argmax()
    if sampling.top_k == 0 and sampling.top_p == 1.0:
        return torch.multinomial(logprobs_V.exp(), 1, generator=generator)[0]
    size = min(sampling.top_k or logprobs_V.numel(), logprobs_V.numel())
    ranked_K, ids_K = logprobs_V.topk(size)
    probs_K = torch.softmax(ranked_K, dim=-1)
    # A token stays while the tokens before it have not reached top_p; the first always stays.
    before_K = probs_K.cumsum(-1) - probs_K
    probs_K = probs_K.masked_fill(before_K >= sampling.top_p, 0.0)
    return ids_K[torch.multinomial(probs_K, 1, generator=generator)[0]]


def seed_of(run: int, number: int) -> int:
    """Of a run's draw `number`, below 2^32: torch's generator on the CPU reads no more of a seed.

    Runs begin far apart, so that two of them share no draws.
    """
    return (run * SEEDS_APART + number) % 2**32
