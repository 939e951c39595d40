"""Keys and values of one session: shared immutable beginnings, then an append-only tail of its own.

A forward opens a window behind `length`, writes every layer into it, and only then advances: a
forward that fails in the middle leaves the cache as it was. A fork copies nothing: what is there
becomes a segment that both see, and each grows behind it. Knows no attention and no scheduling.

Shapes: L = layers, K = key/value heads, C = capacity, N = new tokens, T = cached + new tokens of
the tail, P = tokens of a segment, F = head_dim; 2 = keys and values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelis_fast.policy.config import TextConfig
from pixelis_fast.policy.segments import Segment, cut_segments, to_host

ROOM = 256
"""Tokens a tail has room for beyond what it needs when it moves: copying a tail again every 256
tokens costs less than the forwards between, and a session wastes at most so many tokens."""


@dataclass(frozen=True, slots=True)
class LayerWindow:
    """Views of one layer for one forward."""

    new_keys_NKF: Tensor
    new_values_NKF: Tensor
    keys_1KTF: Tensor
    values_1KTF: Tensor

    def write(self, keys_NKF: Tensor, values_NKF: Tensor) -> tuple[Tensor, Tensor]:
        """Puts the new tokens behind the cached ones; returns the tail, each (1, K, T, F)."""
        self.new_keys_NKF.copy_(keys_NKF)
        self.new_values_NKF.copy_(values_NKF)
        return self.keys_1KTF, self.values_1KTF


def write_all(
    windows: Sequence[LayerWindow], keys_NKF: Tensor, values_NKF: Tensor, lengths: Sequence[int]
) -> None:
    """The new tokens join their caches, in one call instead of one for each."""
    sizes = list(lengths)
    torch._foreach_copy_(
        [window.new_keys_NKF for window in windows] + [window.new_values_NKF for window in windows],
        [*keys_NKF.split(sizes), *values_NKF.split(sizes)],
    )


Window = list[LayerWindow]


class KVCache:
    """One sequence's keys and values.

    Example:
        cache = KVCache(config.text)
        twin = cache.fork()  # both go on behind what is there
    """

    def __init__(
        self,
        config: TextConfig,
        *,
        capacity: int = ROOM,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        prefix: Iterable[Segment] = (),
        multiple: int = 1,
    ) -> None:
        """`capacity` counts the tail's tokens.

        With `multiple` above 1 a window's keys end on a multiple of it, zeros behind the tokens.
        """
        if capacity < 0:
            raise ValueError(f"capacity: expected at least 0, got {capacity}")
        self.config = config
        self.prefix = tuple(prefix)
        self.tail_length = 0
        self.is_on_host = False
        self.multiple = multiple
        self.num_truncations = 0
        """With `length`, tells whether a copy made earlier still begins this cache."""
        self._device = torch.device(device)
        # Where the tail begins in its buffer: before it lie tokens that became a segment.
        self._start = 0
        # The buffer up to here is seen by segments too: never written again.
        self._frozen = 0
        self._kv_2LKCF = self._allocate(capacity, dtype)

    @property
    def prefix_length(self) -> int:
        return sum(segment.length for segment in self.prefix)

    @property
    def length(self) -> int:
        return self.prefix_length + self.tail_length

    @property
    def capacity(self) -> int:
        """Tokens that the prefix and the tail's buffer hold together."""
        return self.prefix_length + self._kv_2LKCF.shape[3] - self._start

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        return self._kv_2LKCF.dtype

    @property
    def bytes_per_token(self) -> int:
        config = self.config
        per_layer = 2 * config.num_kv_heads * config.head_dim
        return per_layer * config.num_layers * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the tail's buffer."""
        return self._kv_2LKCF.untyped_storage().nbytes()

    @property
    def tensors(self) -> list[Tensor]:
        """Everything held on the device."""
        own = [] if self.is_on_host else [self._kv_2LKCF]
        return own + [segment.tensor for segment in self.prefix if not segment.is_on_host]

    @property
    def host_tensors(self) -> list[Tensor]:
        """Everything that was moved to the host."""
        own = [self._kv_2LKCF] if self.is_on_host else []
        return own + [segment.tensor for segment in self.prefix if segment.is_on_host]

    def growth(self, num_tokens: int) -> int:
        """Bytes that `reserve` would add to what is held on the device."""
        size = (self._needed(num_tokens) + ROOM) * self.bytes_per_token
        if self.is_on_host:
            return size
        if self._fits(num_tokens):
            return 0
        # A buffer that segments see stays as long as they do.
        return size if self._frozen else size - self.nbytes

    def reserve(self, num_tokens: int) -> None:
        """Room for num_tokens more; moves the tail when it has to."""
        if not self._fits(num_tokens):
            self._move(self._needed(num_tokens) + ROOM)

    def open_window(self, num_tokens: int) -> Window:
        """Where each layer writes num_tokens more and what of the tail it then sees.

        All layers' views come from four calls: made layer by layer they would cost a decode step
        more than its small kernels.
        """
        assert not self.is_on_host
        self.reserve(num_tokens)
        start = self._start + self.tail_length
        seen = self._start + self._needed(num_tokens)
        views = []
        for buffer_LKCF in self._kv_2LKCF:
            views += [
                buffer_LKCF[:, :, start : start + num_tokens].transpose(1, 2).unbind(),
                buffer_LKCF[:, None, :, self._start : seen].unbind(),
            ]
        new_keys, keys, new_values, values = views
        layers = zip(new_keys, new_values, keys, values, strict=True)
        return [LayerWindow(*layer) for layer in layers]

    def advance(self, num_tokens: int) -> None:
        """The tokens every layer has written now count."""
        assert self._fits(num_tokens)
        self.tail_length += num_tokens

    def truncate(self, length: int) -> None:
        """Forgets the tokens from `length` on; a shared segment itself is never changed."""
        if not 0 <= length <= self.length:
            raise ValueError(f"length: expected 0..{self.length}, got {length}")
        self.num_truncations += 1
        self.tail_length = max(0, length - self.prefix_length)
        self.prefix = tuple(cut_segments(self.prefix, length))
        if self._start + self.tail_length < self._frozen:
            self._move(self.tail_length)

    def snapshot(self) -> tuple[Segment, ...]:
        """All tokens so far as segments on the same memory; the cache goes on as it was."""
        if self.tail_length == 0:
            return self.prefix
        self._frozen = self._start + self.tail_length
        return (*self.prefix, Segment(self._tail()))

    def fork_bytes(self, copied_tail: int | None) -> int:
        """What `fork(copied_tail)` copies, or `clone()` where it is None."""
        if copied_tail is None:
            return self.length * self.bytes_per_token
        return self.tail_length * self.bytes_per_token if self.tail_length <= copied_tail else 0

    def fork(self, copied_tail: int = 0) -> KVCache:
        """A cache that grows on its own behind what is here, which both share from now on.

        A tail of up to `copied_tail` tokens is copied instead.
        """
        if self.tail_length > copied_tail:
            self._seal()
        twin = self._empty(self.tail_length, prefix=self.prefix)
        twin._take(self._tail())
        return twin

    def clone(self, *, room: int = 0) -> KVCache:
        """An independent copy in one piece, with room for more tokens."""
        twin = self._empty(self.length + room)
        for tensor in self.parts():
            twin._take(tensor)
        return twin

    def parts(self) -> list[Tensor]:
        """All tokens in order, (2, L, K, P, F) each."""
        return [*(segment.tensor for segment in self.prefix), self._tail()]

    def append(self, kv_2LKF: Tensor) -> None:
        """One token that was computed elsewhere."""
        self.reserve(1)
        self._take(kv_2LKF.unsqueeze(3))

    def evict(self) -> None:
        """The tail moves to a compact buffer on the host; its spare room is gone."""
        if not self.is_on_host:
            self._kv_2LKCF = to_host(self._tail())
            self._start = self._frozen = 0
            self.is_on_host = True

    def resume(self, *, room: int = 0) -> None:
        """On the device again, with the segments it needs and room for more tokens."""
        for segment in self.prefix:
            segment.resume()
        if self.is_on_host:
            self.is_on_host = False
            self._move(self.tail_length + room)

    def _needed(self, num_tokens: int) -> int:
        """Tokens of the buffer that the tail takes up with num_tokens more."""
        needed = self.tail_length + num_tokens
        return needed + -needed % self.multiple

    def _fits(self, num_tokens: int) -> bool:
        return self._start + self._needed(num_tokens) <= self._kv_2LKCF.shape[3]

    def _tail(self) -> Tensor:
        return self._kv_2LKCF[:, :, :, self._start : self._start + self.tail_length]

    def _seal(self) -> None:
        """The tail so far becomes a segment; what follows goes behind it in the same buffer."""
        self.prefix = self.snapshot()
        self._start += self.tail_length
        self.tail_length = 0

    def _empty(self, capacity: int, prefix: Iterable[Segment] = ()) -> KVCache:
        return KVCache(
            self.config,
            capacity=capacity,
            device=self.device,
            dtype=self.dtype,
            prefix=prefix,
            multiple=self.multiple,
        )

    def _allocate(self, capacity: int, dtype: torch.dtype) -> Tensor:
        config = self.config
        shape = (2, config.num_layers, config.num_kv_heads, capacity, config.head_dim)
        make = torch.empty if self.multiple == 1 else torch.zeros
        # Plain tensors even inside inference_mode: a session may be continued under no_grad.
        with torch.inference_mode(False):
            return make(shape, device=self._device, dtype=dtype)

    def _move(self, capacity: int) -> None:
        old_tail = self._tail()
        self._kv_2LKCF = self._allocate(capacity, self.dtype)
        self._start = self._frozen = self.tail_length = 0
        self._take(old_tail)

    def _take(self, kv_2LKPF: Tensor) -> None:
        """Appends a copy; there is room."""
        start = self._start + self.tail_length
        with torch.no_grad():
            self._kv_2LKCF[:, :, :, start : start + kv_2LKPF.shape[3]] = kv_2LKPF
        self.tail_length += kv_2LKPF.shape[3]
