"""A chooser that follows given tokens: every one is still computed by a real forward pass.

Benchmarks use it to make arms do the same work with any weights; tests use it to lead the loop
through every tool.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pixelis_fast.prompt import Piece
from pixelis_fast.types import Observation


class ScriptError(ValueError):
    """The script leaves what the grammar allows, or ends too early."""


class Script:
    """Follows `ids`, all turns' generated tokens in a row; log-probs are the policy's own.

    Example:
        rollout.run([sample], make_chooser=lambda index: Script(ids))
    """

    def __init__(self, ids: Sequence[int], *, observations: Sequence[Piece] = ()) -> None:
        """observations: pieces to append in place of the real ones, which still are computed."""
        self._ids = list(ids)
        self._observations = list(observations)
        self._next = 0

    def choose(self, logits_V: Tensor, allowed_V: Tensor | None) -> tuple[int, float]:
        token = self._take()
        if allowed_V is not None and not allowed_V[token]:
            raise ScriptError(f"script: token {token} at {self._next - 1} is not in the grammar")
        return token, float(torch.log_softmax(logits_V.float(), dim=-1)[token])

    def follow(self, forced: Sequence[int]) -> None:
        for expected in forced:
            token = self._take()
            if token != expected:
                raise ScriptError(
                    f"script: the grammar forces {expected} at {self._next - 1}, got {token}"
                )

    def observe(self, observation: Observation, piece: Piece) -> Piece:
        return self._observations.pop(0) if self._observations else piece

    def _take(self) -> int:
        if self._next >= len(self._ids):
            raise ScriptError(f"script: expected more than {len(self._ids)} tokens")
        self._next += 1
        return self._ids[self._next - 1]
