"""Segments: keys and values that several caches share, and the bytes behind them.

A segment is never written: it is a view of tokens that a cache has put behind itself. It moves to
the host and back as a whole. Knows no session.

Shapes: L = layers, K = key/value heads, P = tokens, F = head_dim; 2 = keys and values.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class Segment:
    """Tokens that several caches share and none may change; Python's references count its users."""

    def __init__(self, kv_2LKPF: Tensor) -> None:
        self._kv_2LKPF = kv_2LKPF
        self._device = kv_2LKPF.device
        self.is_on_host = False

    @property
    def length(self) -> int:
        return self._kv_2LKPF.shape[3]

    @property
    def tensor(self) -> Tensor:
        """(2, L, K, P, F), wherever it lies now."""
        return self._kv_2LKPF

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each layer, (1, K, P, F)."""
        keys, values = (each_LKPF.unsqueeze(1).unbind() for each_LKPF in self._kv_2LKPF)
        return list(zip(keys, values, strict=True))

    def part(self, length: int) -> Segment:
        """The first tokens, the same memory."""
        return self if length == self.length else Segment(self._kv_2LKPF[:, :, :, :length])

    def evict(self) -> None:
        """To a compact buffer on the host."""
        if not self.is_on_host:
            self._kv_2LKPF, self.is_on_host = to_host(self._kv_2LKPF), True

    def resume(self) -> None:
        """Back to the device."""
        if self.is_on_host:
            self._kv_2LKPF, self.is_on_host = self._kv_2LKPF.to(self._device), False


def cut_segments(segments: Iterable[Segment], length: int) -> list[Segment]:
    """The first tokens of a chain of segments, on the same memory."""
    kept = []
    for segment in segments:
        if length <= 0:
            break
        kept.append(segment.part(min(length, segment.length)))
        length -= segment.length
    return kept


def held_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the memory behind tensors, counted once where several share it."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def to_host(tensor: Tensor) -> Tensor:
    """A compact copy on the host, in memory of its own."""
    with torch.no_grad(), torch.inference_mode(False):
        return tensor.to("cpu", copy=True, memory_format=torch.contiguous_format)
