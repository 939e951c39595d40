"""Keys and values of one session, append-only, all layers in one pair of buffers.

A forward opens a window behind `length`, writes every layer into it, and only then advances: a
forward that fails in the middle leaves the cache as it was. Knows no attention and no scheduling.

Shapes: L = layers, K = key/value heads, C = capacity, N = new tokens, T = cached + new tokens,
F = head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pixelis_fast.policy.config import TextConfig


@dataclass(frozen=True, slots=True)
class LayerWindow:
    """Views of one layer for one forward."""

    new_keys_NKF: Tensor
    new_values_NKF: Tensor
    keys_1KTF: Tensor
    values_1KTF: Tensor

    def write(self, keys_NKF: Tensor, values_NKF: Tensor) -> tuple[Tensor, Tensor]:
        """Puts the new tokens behind the cached ones; returns all, each (1, K, T, F)."""
        self.new_keys_NKF.copy_(keys_NKF)
        self.new_values_NKF.copy_(values_NKF)
        return self.keys_1KTF, self.values_1KTF


Window = list[LayerWindow]


class KVCache:
    """One sequence's keys and values; capacity doubles when it is full."""

    def __init__(
        self,
        config: TextConfig,
        *,
        capacity: int = 256,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"capacity: expected at least 1, got {capacity}")
        self.config = config
        self.length = 0
        self._allocate(capacity, torch.device(device), dtype)

    @property
    def capacity(self) -> int:
        return self._keys_LKCF.shape[2]

    @property
    def device(self) -> torch.device:
        return self._keys_LKCF.device

    @property
    def dtype(self) -> torch.dtype:
        return self._keys_LKCF.dtype

    @property
    def nbytes(self) -> int:
        return self._keys_LKCF.nbytes + self._values_LKCF.nbytes

    def reserve(self, num_tokens: int) -> None:
        """Room for num_tokens more; moves the buffers when it has to."""
        needed = self.length + num_tokens
        if needed > self.capacity:
            self._move(max(needed, 2 * self.capacity))

    def open_window(self, num_tokens: int) -> Window:
        """Where each layer writes num_tokens more and what it then sees.

        All layers' views come from four calls: made layer by layer they would cost a decode step
        more than its small kernels.
        """
        self.reserve(num_tokens)
        end = self.length + num_tokens
        views = []
        for buffer_LKCF in (self._keys_LKCF, self._values_LKCF):
            new_LNKF = buffer_LKCF[:, :, self.length : end].transpose(1, 2)
            views += [new_LNKF.unbind(), buffer_LKCF[:, None, :, :end].unbind()]
        new_keys, keys, new_values, values = views
        layers = zip(new_keys, new_values, keys, values, strict=True)
        return [LayerWindow(*layer) for layer in layers]

    def advance(self, num_tokens: int) -> None:
        """The tokens every layer has written now count."""
        assert self.length + num_tokens <= self.capacity
        self.length += num_tokens

    def truncate(self, length: int) -> None:
        """Forgets the tokens from `length` on."""
        if not 0 <= length <= self.length:
            raise ValueError(f"length: expected 0..{self.length}, got {length}")
        self.length = length

    def fork(self, *, room: int = 0) -> KVCache:
        """A copy that grows on its own, with room for more tokens; spare capacity is not copied."""
        twin = KVCache(
            self.config,
            capacity=max(1, self.length + room),
            device=self.device,
            dtype=self.dtype,
        )
        twin.length = self.length
        twin._copy_from(self._keys_LKCF, self._values_LKCF)
        return twin

    def _allocate(self, capacity: int, device: torch.device, dtype: torch.dtype) -> None:
        config = self.config
        shape = (config.num_layers, config.num_kv_heads, capacity, config.head_dim)
        # Plain tensors even inside inference_mode: a session may be continued under no_grad.
        with torch.inference_mode(False):
            self._keys_LKCF = torch.empty(shape, device=device, dtype=dtype)
            self._values_LKCF = torch.empty(shape, device=device, dtype=dtype)

    def _move(self, capacity: int) -> None:
        old_keys, old_values = self._keys_LKCF, self._values_LKCF
        self._allocate(capacity, self.device, self.dtype)
        self._copy_from(old_keys, old_values)

    def _copy_from(self, keys_LKCF: Tensor, values_LKCF: Tensor) -> None:
        used = self.length
        with torch.no_grad():
            self._keys_LKCF[:, :, :used] = keys_LKCF[:, :, :used]
            self._values_LKCF[:, :, :used] = values_LKCF[:, :, :used]
