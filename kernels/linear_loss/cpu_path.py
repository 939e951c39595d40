"""The op on the CPU: own matrix products and softmax in C++, block by block of the vocabulary.

One block's logits (128 vocabulary rows by up to 512 tokens) live in a core's cache and nowhere
else: forward sums them up, backward computes them again, or reads those the budget kept. Kept
logits are float32 and the same bits as computed ones, so the budget never changes a result. Rows
that are not valid are dropped first. The instruction set is chosen by csrc/linear_level.cpp.

Shapes: N = tokens, M = valid tokens, D = hidden width, V = vocabulary, C = stored columns,
P = tokens padded, S = statistics, K = coefficients.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pixelis_fast.kernels import _cpu
from pixelis_fast.kernels.linear_loss.coefficients import Coefficients
from pixelis_fast.kernels.linear_loss.problem import (
    LOGPROB,
    MEAN_LOGIT,
    NAMES,
    Forward,
    Problem,
)

BLOCK_ROWS = 128
"""Vocabulary rows computed at once in C++; a block is stored whole or not at all."""


@dataclass(frozen=True)
class CpuPath:
    rows_per_token: ClassVar[int] = 2
    """The target's logit, and by how much it differs from the reference's."""
    simd: str | None = None
    """One of _cpu.linear_levels() to compare levels; None runs the best."""

    def stored_columns(
        self, hidden_ND: Tensor, weight_VD: Tensor, *, keeps_deltas: bool, budget: int | None
    ) -> int:
        """Nothing where no budget is given. Kept logits are float32: a quarter of them would pass
        1/8 of what eager needs beside inputs and gradients, and with AMX computing them again
        takes no longer than writing them to fresh memory. Without AMX a budget for all of them
        is worth a fourth product: bench/kernels.py's ours-kept."""
        num_tokens, vocabulary = hidden_ND.shape[0], weight_VD.shape[0]
        column_bytes = 4 * padded_stride(num_tokens) * (2 if keeps_deltas else 1)
        columns = (budget or 0) // column_bytes
        if columns >= padded(vocabulary):
            return vocabulary
        return columns // BLOCK_ROWS * BLOCK_ROWS

    def new_stored(self, hidden_ND: Tensor, columns: int) -> Tensor:
        """float32 (C padded, P): the vocabulary outside, tokens across."""
        shape = padded(columns), padded_stride(hidden_ND.shape[0])
        return hidden_ND.new_empty(shape, dtype=torch.float32)

    def forward(
        self, problem: Problem, exponentials: Tensor, deltas: Tensor
    ) -> tuple[Tensor, Tensor]:
        rows = valid_rows(problem)
        dense = compacted(problem, rows)
        found_SM = torch.zeros((len(NAMES) + 2, dense.hidden_ND.shape[0]))
        if found_SM.numel() > 0:
            _cpu.linear_forward(
                *self._inputs(dense, with_reference=True),
                **self._options(dense, exponentials, deltas, with_reference=True),
                statistics=found_SM.numpy(),
            )
        if not problem.wants_mean:
            found_SM[MEAN_LOGIT] = 0
        found_SN = expanded(found_SM, rows, problem.hidden_ND.shape[0])
        return found_SN[: len(NAMES)].clone(), found_SN[len(NAMES) :].clone()

    def backward(
        self,
        problem: Problem,
        saved: Forward,
        row: Coefficients,
        *,
        plain: bool,
        needs_hidden: bool,
        needs_weight: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        rows = valid_rows(problem)
        dense = compacted(problem, rows)
        coefficients_KN = torch.stack((saved.statistics_SN[LOGPROB], *row))
        coefficients_KM = coefficients_KN if rows is None else coefficients_KN[:, rows]
        dhidden_MD = torch.empty_like(dense.hidden_ND) if needs_hidden else None
        dweight_VD = torch.empty_like(dense.weight_VD) if needs_weight else None
        if dense.hidden_ND.shape[0] == 0:
            dweight_VD = None if dweight_VD is None else dweight_VD.zero_()
        else:
            with_reference = problem.has_reference and bool((row.delta != 0).any())
            _cpu.linear_backward(
                *self._inputs(dense, with_reference=with_reference),
                **self._options(
                    dense,
                    saved.exponentials,
                    saved.deltas,
                    with_reference=with_reference,
                ),
                coefficients=coefficients_KM.contiguous().numpy(),
                plain=plain,
                hidden_gradient=array(dhidden_MD),
                weight_gradient=array(dweight_VD),
            )
        if dhidden_MD is not None and rows is not None:
            dhidden_MD = problem.hidden_ND.new_zeros(problem.hidden_ND.shape).index_copy_(
                0, rows, dhidden_MD
            )
        return dhidden_MD, dweight_VD

    def _inputs(self, dense: Problem, *, with_reference: bool) -> tuple[Any, ...]:
        return array(dense.hidden_ND), array(dense.weight_VD), dense.targets_N.numpy()

    def _options(
        self, dense: Problem, logits: Tensor, deltas: Tensor, *, with_reference: bool
    ) -> dict[str, Any]:
        return {
            "reference_hidden": array(dense.reference_hidden_NE) if with_reference else None,
            "reference_weight": array(dense.reference_weight_VE) if with_reference else None,
            "scale": dense.scale,
            "softcap": dense.softcap,
            "logits": logits.detach().numpy(),
            "deltas": deltas.detach().numpy(),
            "threads": torch.get_num_threads(),
            "simd": self.simd,
        }


def padded(count: int) -> int:
    """As csrc/linear_problem.h pads: 32 rows or tokens at once."""
    return (count + 31) // 32 * 32


def padded_stride(count: int) -> int:
    """Between rows: an odd number of cache lines, so that a column's do not share a cache set."""
    return padded(count) + 16


def array(tensor: Tensor | None) -> Any:
    """The tensor's memory as numpy sees it; bfloat16 as the int16 of the same bits."""
    if tensor is None:
        return None
    plain = tensor.detach()
    return (plain.view(torch.int16) if plain.dtype == torch.bfloat16 else plain).numpy()


def valid_rows(problem: Problem) -> Tensor | None:
    """Indices of the valid rows; None where all are."""
    return None if bool(problem.valid_N.all()) else problem.valid_N.nonzero()[:, 0]


def compacted(problem: Problem, rows: Tensor | None) -> Problem:
    if rows is None:
        return problem
    reference = problem.reference_hidden_NE
    return replace(
        problem,
        hidden_ND=problem.hidden_ND[rows],
        targets_N=problem.targets_N[rows],
        valid_N=problem.valid_N[rows],
        reference_hidden_NE=None if reference is None else reference[rows],
    )


def expanded(found_SM: Tensor, rows: Tensor | None, num_tokens: int) -> Tensor:
    if rows is None:
        return found_SM
    return found_SM.new_zeros((found_SM.shape[0], num_tokens)).index_copy_(1, rows, found_SM)
