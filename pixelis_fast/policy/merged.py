"""A published bank added to its base once, not in every forward.

A corrected layer is W x and two small products more, each of which costs as much as W x itself
where the layer is small and rows are few. A version is served through thousands of forwards and
changes in none: its matrices W + delta are made when it is published. Numbers differ from the
corrected layer's in the last bits. Only fp32, whose bits a small correction does not fall below;
only as many versions as a budget holds: a large policy's stay corrected.

Shapes: N = rows, D = inputs, O = outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from weakref import ReferenceType, ref

import torch
from torch import Tensor
from torch.nn.functional import linear

from pixelis_fast.policy.adapters import AdapterBank
from pixelis_fast.policy.decoder import Apply, Projection, Site
from pixelis_fast.policy.model import Policy
from pixelis_fast.policy.packed import PackedLinears


@dataclass(frozen=True)
class Matrix:
    """A layer of its own; PackedLinears takes it for one."""

    weight: Tensor

    def __call__(self, x_ND: Tensor) -> Tensor:
        return linear(x_ND, self.weight)


class MergedVersion:
    """All of a decoder's matrices with one bank added."""

    def __init__(self, policy: Policy, bank: AdapterBank, base: Apply) -> None:
        """`base` runs what is no layer of the decoder; what it packs is packed here too."""
        self._bank: ReferenceType[AdapterBank] = ref(bank)
        self._base = base
        self._matrices = {
            layer.site: Matrix(layer.weight.detach() + bank.pairs[layer.site].delta())
            for layer in projections(policy)
        }
        self._run: Apply = base
        if isinstance(base, PackedLinears):
            self._run = packed = PackedLinears()
            for matrix in self._matrices.values():
                packed.pack(matrix.weight)

    def is_of(self, bank: AdapterBank | None) -> bool:
        return self._bank() is bank

    def __call__(self, layer: Callable[[Tensor], Tensor], x_ND: Tensor) -> Tensor:
        site: Site | None = getattr(layer, "site", None)
        if site is None:
            return self._base(layer, x_ND)
        return self._run(self._matrices[site], x_ND)


class MergedVersions:
    """The newest ones of a policy.

    Example:
        versions.prepare(bank)          # any thread, ahead of its first forward
        apply = versions.of(bank)       # None: not prepared, or no room
    """

    def __init__(self, policy: Policy, base: Apply, *, byte_budget: int) -> None:
        self._policy, self._base = policy, base
        is_exact = policy.dtype == torch.float32
        self._room = byte_budget // version_bytes(policy) if is_exact else 0
        self._kept: tuple[MergedVersion, ...] = ()

    @torch.no_grad()
    def prepare(self, bank: AdapterBank) -> None:
        """The oldest make room. A reader on another thread sees all of it or nothing."""
        if self._room and self.of(bank) is None:
            made = MergedVersion(self._policy, bank, self._base)
            self._kept = (*self._kept, made)[-self._room :]

    def of(self, bank: AdapterBank | None) -> Apply | None:
        return next((each for each in self._kept if each.is_of(bank)), None)

    def clear(self) -> None:
        """The base's own matrices changed."""
        self._kept = ()


def projections(policy: Policy) -> Iterator[Projection]:
    return (module for module in policy.modules() if isinstance(module, Projection))


def version_bytes(policy: Policy) -> int:
    """Of one version's matrices, and again as packed."""
    return 2 * sum(layer.weight.nbytes for layer in projections(policy))
