"""What one trajectory keeps between forwards: its cache, its next position, its step embedding.

Shapes: D = hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pixelis_fast.policy.adapters import AdapterBank
from pixelis_fast.policy.cache import KVCache
from pixelis_fast.policy.chunk import Chunk


@dataclass(eq=False)
class Session:
    """Made by Engine.open and Engine.fork; the engine alone changes it."""

    cache: KVCache
    sum_D: Tensor
    """Sum of the hidden states since the last `take_embedding`, fp32."""
    version: str
    """The weights it was opened under."""
    salt: str = ""
    next_position: int = 0
    history: Chunk = field(default_factory=lambda: Chunk([]))
    """Every chunk so far, kept only by an engine that does not keep keys and values."""
    opening: Chunk | None = field(default_factory=lambda: Chunk([]))
    """What opened the session; None as soon as tokens were generated behind it."""
    num_summed: int = 0
    bank: AdapterBank | None = None
    """Of its version, for as long as it is open; None: the base alone."""

    @property
    def is_evicted(self) -> bool:
        return self.cache.is_on_host

    def take_embedding(self) -> Tensor:
        """z_t: mean of the last hidden states computed since the last take, (D,) fp32 on the CPU.

        They are those of the session's own forwards; tokens that a prefix hit supplied have none.
        """
        if self.num_summed == 0:
            raise ValueError("embedding: expected tokens since the last take, got none")
        mean_D = (self.sum_D / self.num_summed).cpu()
        self.sum_D = torch.zeros_like(self.sum_D)
        self.num_summed = 0
        return mean_D
