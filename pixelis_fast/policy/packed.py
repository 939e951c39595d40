"""Linear layers on weights packed for the processor: MKL's or oneDNN's layout, beside the weights.

A plain product repacks its matrix at every call, which costs most where rows are few:
`bench/engine.py` times all products of a forward, plain and packed, by the number of rows. It costs
as much memory again as the matrices. Knows no layers' order.

Shapes: N = rows, D = inputs, I = outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

PACK_ROWS = 256
"""What the packing is told to expect; measured best or next to best for 4 to 1,000 rows."""
MIN_ROWS = 4
"""Fewer are multiplied plainly: a matrix-vector product reads the matrix once anyway."""
PROBE_ROWS = 5
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Of the largest output, between the plain and the packed product of one matrix."""


@dataclass(frozen=True)
class Packed:
    """One matrix in the library's layout."""

    weight_ID: Tensor
    version: int
    """Of the weight when it was packed: an update in place makes it stale."""
    packed: Tensor

    def multiply(self, x_ND: Tensor) -> Tensor:
        """(N, I)"""
        if self.weight_ID.dtype == torch.bfloat16:
            return torch.ops.mkldnn._linear_pointwise(x_ND, self.packed, None, "none", [], "")
        weight_ID = self.weight_ID.detach()
        return torch.ops.mkl._mkl_linear(x_ND, self.packed, weight_ID, None, x_ND.shape[0])


def can_pack(weight: Tensor) -> bool:
    """MKL packs fp32 matrices on the CPU, oneDNN bf16 ones where the CPU multiplies bf16."""
    if weight.device.type != "cpu":
        return False
    if weight.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32 and torch.backends.mkl.is_available()


def updates(tensor: Tensor) -> int:
    """How often torch saw it written in place; a tensor made in inference mode does not count."""
    return 0 if tensor.is_inference() else tensor._version


def weights_stamp(module: nn.Module) -> int:
    """Changes with every in-place update of a parameter."""
    return sum(updates(parameter) for parameter in module.parameters())


class PackedLinears:
    """Applies linear layers, each matrix packed at its first use.

    Example:
        hidden_ND = policy.hidden(batch, caches, apply=PackedLinears())
    """

    def __init__(self) -> None:
        self._packed: dict[int, Packed] = {}

    def __call__(self, module: Callable[[Tensor], Tensor], x_ND: Tensor) -> Tensor:
        weight_ID = getattr(module, "weight", None)
        if x_ND.shape[0] < MIN_ROWS or weight_ID is None:
            return module(x_ND)
        packed = self.pack(weight_ID)
        return module(x_ND) if packed is None else packed.multiply(x_ND)

    def pack(self, weight_ID: Tensor) -> Packed | None:
        """The matrix as it is now, packed; None where no library packs it."""
        packed = self._packed.get(id(weight_ID))
        if packed is None or packed.version != updates(weight_ID):
            if not can_pack(weight_ID):
                return None
            packed = self._packed[id(weight_ID)] = pack_weight(weight_ID)
        return packed

    @property
    def nbytes(self) -> int:
        return sum(packed.weight_ID.nbytes for packed in self._packed.values())

    def clear(self) -> None:
        """Forgets every packed matrix; call it when weights changed behind torch's back."""
        self._packed.clear()


def pack_weight(weight_ID: Tensor) -> Packed:
    """Raises RuntimeError where the packed product is not the plain one."""
    detached_ID = weight_ID.detach()
    is_half = weight_ID.dtype == torch.bfloat16
    library = torch.ops.mkldnn._reorder_linear_weight if is_half else None
    reorder = library or torch.ops.mkl._mkl_reorder_linear_weight
    packed = Packed(weight_ID, updates(weight_ID), reorder(detached_ID, PACK_ROWS))
    # MKL documents one number of rows per packing; that it serves any is checked here each time.
    probe_ND = torch.linspace(-1, 1, PROBE_ROWS * weight_ID.shape[1]).view(PROBE_ROWS, -1)
    probe_ND = probe_ND.to(weight_ID.dtype)
    expected, got = linear(probe_ND, detached_ID), packed.multiply(probe_ND)
    apart, scale = float((got - expected).abs().max()), float(expected.abs().max())
    if not apart <= TOLERANCE[weight_ID.dtype] * scale:
        raise RuntimeError(f"packed product: expected the plain one, got a difference of {apart}")
    return packed
