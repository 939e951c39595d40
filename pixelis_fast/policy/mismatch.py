"""Rollout against trainer: the same tokens must have the same log-probabilities on both sides.

Where they differ by more than arithmetic does, one side has other weights, another mask or other
pixels: a publish that the rollout did not see is the usual case. Knows no trainer.

Shapes: M = chosen tokens, N = tokens of a history, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelis_fast.policy.batch import PackedBatch
from pixelis_fast.policy.model import Policy
from pixelis_fast.policy.sampling import mask_logits

LIMITS = {
    torch.float32: (1e-5, 1e-3),
    torch.bfloat16: (0.05, 1.0),
}
"""Mean and largest |difference| that arithmetic explains. fp32: tests/phases/test_mismatch.py holds
the phases to 1e-6 on random weights and to 3e-5 on trained ones, whose larger logits round more
coarsely. bf16: others report a mean of 0.01 to 0.02 in health and 0.2 with stale weights."""


class MismatchError(RuntimeError):
    """Rollout and trainer do not run the same policy."""


@dataclass(frozen=True)
class Mismatch:
    """How far apart two sides are on the same tokens, in nats."""

    num_tokens: int
    mean_abs: float
    max_abs: float
    mean_ratio: float
    """Mean of p_trainer / p_rollout: 1 where they agree."""


@dataclass(frozen=True)
class MismatchAlarm:
    """Raises where the sides are further apart than the limits.

    Example:
        alarm = MismatchAlarm.for_dtype(policy.dtype)
        alarm.check(torch.tensor(trajectory.logprobs)[places], trainer_M)
    """

    mean_limit: float
    max_limit: float

    @staticmethod
    def for_dtype(dtype: torch.dtype) -> MismatchAlarm:
        if dtype not in LIMITS:
            raise ValueError(f"dtype: expected one of {list(LIMITS)}, got {dtype}")
        return MismatchAlarm(*LIMITS[dtype])

    def check(self, rollout_M: Tensor, trainer_M: Tensor) -> Mismatch:
        """Both are log-probabilities of the tokens that the policy chose; forced ones left out."""
        found = measure(rollout_M, trainer_M)
        if refusal := self.refusal(found):
            raise MismatchError(refusal)
        return found

    def refusal(self, found: Mismatch) -> str | None:
        """What is wrong, for a caller that goes on without raising; None where nothing is."""
        if found.mean_abs <= self.mean_limit and found.max_abs <= self.max_limit:
            return None
        return (
            f"log-probabilities: expected a mean difference up to {self.mean_limit} and none "
            f"above {self.max_limit} between rollout and trainer, got {found.mean_abs:.3g} and "
            f"{found.max_abs:.3g} over {found.num_tokens} tokens; are the weights stale?"
        )


def measure(rollout_M: Tensor, trainer_M: Tensor) -> Mismatch:
    """NaN anywhere gives NaN, which no limit lets pass."""
    if rollout_M.dim() != 1 or rollout_M.shape != trainer_M.shape or len(rollout_M) == 0:
        raise ValueError(
            "log-probabilities: expected two rows of one length, got "
            f"{tuple(rollout_M.shape)} and {tuple(trainer_M.shape)}"
        )
    apart_M = trainer_M.detach().cpu().double() - rollout_M.detach().cpu().double()
    return Mismatch(
        num_tokens=len(apart_M),
        mean_abs=float(apart_M.abs().mean()),
        max_abs=float(apart_M.abs().max()),
        mean_ratio=float(apart_M.exp().mean()),
    )


def trainer_logprobs(
    policy: Policy,
    batch: PackedBatch,
    places: Sequence[int],
    *,
    temperature: float = 1.0,
    allowed: Sequence[Tensor | None] | None = None,
    banned_ids: Tensor | Collection[int] = (),
    invariant: bool = False,
) -> Tensor:
    """(M,) log-probabilities of the tokens at `places` of one history, by a training forward.

    `allowed[m]` is the grammar's mask (V,) where token m was chosen. `batch` comes from
    Engine.training_batch.
    """
    hidden_ND = policy.hidden(batch, invariant=invariant)
    rows_M = torch.tensor(places, device=policy.device) - 1
    logits_MV = policy.logits(hidden_ND[rows_M], invariant=invariant) / temperature
    masks = allowed or [None] * len(places)
    logprobs = [
        torch.log_softmax(mask_logits(logits_V, allowed=mask_V, banned_ids=banned_ids), dim=-1)
        for logits_V, mask_V in zip(logits_MV, masks, strict=True)
    ]
    ids_M = batch.input_ids_N[rows_M + 1]
    return torch.stack([row_V[token] for row_V, token in zip(logprobs, ids_M, strict=True)])
