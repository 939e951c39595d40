"""Plans of one call, run together: one forward, or rounds of one piece of each.

Legend: B sessions, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelis_fast.policy.cache import KVCache
from pixelis_fast.policy.chunk import Chunk, Piece
from pixelis_fast.policy.forward import Encoded, Forward
from pixelis_fast.policy.session import Session


@dataclass(frozen=True)
class Plan:
    """What one call computes for one session, and where it goes on."""

    session: Session
    given: Chunk
    chunk: Chunk
    """What is left of `given` to compute, or the whole history."""
    cache: KVCache
    position: int
    history: Chunk


@dataclass(eq=False)
class Run:
    """A plan under way."""

    plan: Plan
    pieces: list[Chunk]
    position: int
    sum_D: Tensor
    num_resent: int
    """Tokens to come that were summed when they first came."""

    def take_count(self) -> int:
        """Tokens of the next piece that are new."""
        size = len(self.pieces[0].ids)
        resent = min(size, self.num_resent)
        self.num_resent -= resent
        return size - resent


def run_plans(
    forward: Forward, plans: Sequence[Plan], encoded: Encoded, prefill_chunk: int | None
) -> tuple[Tensor, list[Run]]:
    """Logits_BV behind every plan; a failure leaves every cache with the tokens it had."""
    runs = [_start(plan, prefill_chunk) for plan in plans]
    lengths = [plan.cache.length for plan in plans]
    try:
        logits_BV = _round(forward, runs, encoded)
        while waiting := [run for run in runs if run.pieces]:
            later_BV = _round(forward, waiting, encoded)
            logits_BV[[runs.index(run) for run in waiting]] = later_BV
    except BaseException:
        for plan, length in zip(plans, lengths, strict=True):
            plan.cache.truncate(length)
        raise
    return logits_BV, runs


def _start(plan: Plan, prefill_chunk: int | None) -> Run:
    pieces = [plan.chunk] if prefill_chunk is None else plan.chunk.cut(prefill_chunk)
    resent = max(0, len(plan.chunk.ids) - len(plan.given.ids))
    return Run(plan, pieces, plan.position, torch.zeros_like(plan.session.sum_D), resent)


def _round(forward: Forward, runs: Sequence[Run], encoded: Encoded) -> Tensor:
    """The next piece of each, in one forward; logits behind each."""
    pieces = [
        Piece(run.pieces[0], run.plan.cache, run.position, run.plan.session.bank) for run in runs
    ]
    computed = forward.run(pieces, encoded)
    sums = computed.sums([run.take_count() for run in runs])
    torch._foreach_add_([run.sum_D for run in runs], sums)
    for run, position in zip(runs, computed.positions, strict=True):
        run.position = position
        run.pieces.pop(0)
    return forward.next_logits(computed)
