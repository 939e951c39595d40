"""Launches over rows: compaction of a problem, and each row's target logit.

Shapes: N = tokens, D = hidden width, E = the reference's width, V = vocabulary.
"""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from pixelis_fast.kernels.linear_loss.compaction import Rows
from pixelis_fast.kernels.linear_loss.problem import Problem
from pixelis_fast.kernels.linear_loss.row_kernels import copy_rows_kernel, target_logit_kernel
from pixelis_fast.kernels.triton_support import COMPILER_OPTIONS

ROW_BLOCK = 1024


def copy_rows(
    source_ND: Tensor,
    index_N: Tensor,
    kept_N: Tensor,
    dtype: torch.dtype,
    *,
    factor_N: Tensor | None = None,
) -> Tensor:
    """out[r] = source[index[r]] · factor[index[r]] where kept, zeros elsewhere; (N, D) of dtype."""
    rows, width = source_ND.shape
    out_ND = torch.empty((rows, width), dtype=dtype, device=source_ND.device)
    copy_rows_kernel[(rows,)](
        source_ND,
        index_N,
        index_N if factor_N is None else factor_N,
        kept_N,
        out_ND,
        width,
        HAS_FACTOR=factor_N is not None,
        BLOCK=min(ROW_BLOCK, triton.next_power_of_2(width)),
        **COMPILER_OPTIONS,
    )
    return out_ND


def target_logits(
    problem: Problem, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor
) -> Tensor:
    """hidden[r] · weight[targets[r]], capped and scaled; (N) float32."""
    rows, width = hidden_ND.shape
    out_N = torch.empty(rows, dtype=torch.float32, device=hidden_ND.device)
    target_logit_kernel[(rows,)](
        hidden_ND,
        weight_VD,
        targets_N,
        out_N,
        width,
        problem.scale,
        problem.softcap,
        HAS_SOFTCAP=problem.softcap > 0,
        BLOCK=min(ROW_BLOCK, triton.next_power_of_2(width)),
        **COMPILER_OPTIONS,
    )
    return out_N


@dataclass(frozen=True)
class Compacted:
    """The problem's rows in slot order; padding is zero."""

    rows: Rows
    hidden_ND: Tensor
    targets_N: Tensor
    reference_NE: Tensor | None
    """hidden^q; with a shared head hidden - hidden^q."""


def compacted(problem: Problem, rows: Rows) -> Compacted:
    dtype = problem.hidden_ND.dtype
    hidden_ND = copy_rows(problem.hidden_ND, rows.order_N, rows.kept_N, dtype)
    targets_N = problem.targets_N[rows.order_N]
    if problem.reference_hidden_NE is None:
        return Compacted(rows, hidden_ND, targets_N, None)
    source = problem.reference_hidden_NE
    if problem.shares_head:
        source = (problem.hidden_ND.float() - source.float()).to(dtype)
    reference_NE = copy_rows(source, rows.order_N, rows.kept_N, dtype)
    return Compacted(rows, hidden_ND, targets_N, reference_NE)
