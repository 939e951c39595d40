"""A linear layer with its adapter as one op: corrections are added where the product already lies.

As separate ops each layer has three more tensors of the product's size to write and read: of the
modules, of these joined, of the sum. Equal to them but for the last bits.

Shapes: N = rows, D = inputs, O = outputs, m = modules of a fused layer, R = rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.functional import linear


def can_fuse(layer: object, x_ND: Tensor) -> TypeGuard[nn.Linear]:
    """Narrower layers add in fp32 and round once, which needs the correction by itself."""
    return isinstance(layer, nn.Linear) and layer.weight.dtype == x_ND.dtype == torch.float32


def corrected_linear(
    x_ND: Tensor, weight_OD: Tensor, a_mRD: Tensor, b_OR: Sequence[Tensor], scale: float
) -> Tensor:
    """(N, O): x Wᵀ + scale · (x Aᵀ) Bᵀ, one B for each module's columns; all fp32."""
    return _CorrectedLinear.apply(x_ND, weight_OD, a_mRD, scale, *b_OR)


class _CorrectedLinear(Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x_ND: Tensor,
        weight_OD: Tensor,
        a_mRD: Tensor,
        scale: float,
        *b_OR: Tensor,
    ) -> Tensor:
        low_NmR = linear(x_ND, a_mRD).mul_(scale)
        y_NO = linear(x_ND, weight_OD)
        for part_NO, low_NR, each_OR in by_module(y_NO, low_NmR, b_OR):
            part_NO.addmm_(low_NR, each_OR.T)
        ctx.save_for_backward(x_ND, weight_OD, a_mRD, low_NmR, *b_OR)
        ctx.scale = scale  # type: ignore[attr-defined]
        return y_NO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, weight_OD, a_mRD, low_NmR, *b_OR = ctx.saved_tensors
        parts = list(by_module(grad_NO, low_NmR, b_OR))
        grad_low_NmR = torch.cat([part_NO @ each_OR for part_NO, _, each_OR in parts], dim=1)
        grad_low_NmR.mul_(ctx.scale)
        for_x, for_weight, for_a, _, *for_b = ctx.needs_input_grad
        return (
            (grad_NO @ weight_OD).addmm_(grad_low_NmR, a_mRD) if for_x else None,
            grad_NO.T @ x_ND if for_weight else None,
            grad_low_NmR.T @ x_ND if for_a else None,
            None,
            *(
                part_NO.T @ low_NR if wanted else None
                for wanted, (part_NO, low_NR, _) in zip(for_b, parts, strict=True)
            ),
        )


def by_module(
    wide_NO: Tensor, low_NmR: Tensor, b_OR: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Each module's columns of both, as views, beside its B."""
    wide = wide_NO.split([len(each) for each in b_OR], dim=1)
    return zip(wide, low_NmR.split(b_OR[0].shape[1], dim=1), b_OR, strict=True)
