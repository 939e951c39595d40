"""The op on a GPU (or in the interpreter): which kernel runs on which buffer, in which order.

Valid rows are compacted to the front by a permutation computed on the device, and every kernel
reads their count from device memory: nothing waits for the host. Forward keeps exponentials for
the first columns of the vocabulary; backward takes those as they are and computes the others
again, a slice at a time.

Shapes: N = tokens, D = hidden width, V = vocabulary, C = stored columns, S = statistics.
"""

from typing import ClassVar

import torch
from torch import Tensor

from pixelis_fast.kernels.linear_loss.coefficients import Coefficients
from pixelis_fast.kernels.linear_loss.compaction import compact
from pixelis_fast.kernels.linear_loss.launch import Launcher, new_statistics
from pixelis_fast.kernels.linear_loss.launch_rows import Compacted, compacted, target_logits
from pixelis_fast.kernels.linear_loss.problem import Forward, Problem
from pixelis_fast.kernels.linear_loss.triton_backward import Backward, new_buffer, put_targets
from pixelis_fast.kernels.triton_support import scratch_dtype

DEFAULT_BUDGET_BYTES = 3 << 30
"""Holds every exponential of 8192 tokens over 151,936 entries in bfloat16 (2.5 GB)."""
COLUMN_STEP = 512
"""Slices start at multiples of every tile's columns and rows."""


class TritonPath:
    """Implements paths.Path."""

    rows_per_token: ClassVar[int] = 4

    def stored_columns(
        self, hidden_ND: Tensor, weight_VD: Tensor, *, keeps_deltas: bool, budget: int | None
    ) -> int:
        budget = DEFAULT_BUDGET_BYTES if budget is None else budget
        buffers = 2 if keeps_deltas else 1
        per_column = max(1, hidden_ND.shape[0]) * scratch_dtype(hidden_ND.dtype).itemsize * buffers
        columns = budget // per_column
        vocabulary = weight_VD.shape[0]
        return vocabulary if columns >= vocabulary else columns // COLUMN_STEP * COLUMN_STEP

    def new_stored(self, hidden_ND: Tensor, columns: int) -> Tensor:
        return new_buffer(hidden_ND, columns)

    def forward(
        self, problem: Problem, exponentials: Tensor, deltas: Tensor
    ) -> tuple[Tensor, Tensor]:
        num_rows, device = problem.hidden_ND.shape[0], problem.hidden_ND.device
        statistics_SN = new_statistics(num_rows, device)
        if num_rows == 0:
            return statistics_SN, statistics_SN.new_empty((self.rows_per_token, 0))
        given = compacted(problem, compact(problem.valid_N))
        launcher = Launcher(problem, given)
        per_row_4N = _anchors(problem, given)
        partials = launcher.new_partials()
        flagged = torch.zeros(num_rows + 1, dtype=torch.int8, device=device)
        for only_flagged in (False, True):
            launcher.statistics(
                per_row_4N,
                first_column=0,
                end_column=launcher.vocabulary,
                exponentials=exponentials,
                deltas=deltas,
                partials=partials,
                flagged=flagged,
                only_flagged=only_flagged,
            )
            launcher.combine(
                per_row_4N, partials, flagged, statistics_SN, only_flagged=only_flagged
            )
            flagged[num_rows] = flagged[:num_rows].amax()
        if exponentials.shape[1]:
            put_targets(exponentials, given, statistics_SN, per_row_4N, first_column=0)
        return statistics_SN[:, given.rows.position_N], per_row_4N

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
        dweight_VD = torch.empty_like(problem.weight_VD) if needs_weight else None
        if problem.hidden_ND.shape[0] == 0:
            return (
                torch.empty_like(problem.hidden_ND) if needs_hidden else None,
                None if dweight_VD is None else dweight_VD.zero_(),
            )
        work = Backward(problem, saved, row, plain=plain)
        dhidden_ND = torch.empty_like(problem.hidden_ND, dtype=torch.float32)
        for number, part in enumerate(work.slices()):
            columns = {"first_column": part.first_column, "columns": part.columns}
            if needs_hidden:
                work.launcher.hidden_product(
                    part.gradient, dhidden_ND, accumulates=number > 0, **columns
                )
            if dweight_VD is not None:
                work.launcher.weight_product(
                    part.gradient, work.scaled_hidden_ND, dweight_VD, **columns
                )
        return work.token_rows(dhidden_ND) if needs_hidden else None, dweight_VD


def _anchors(problem: Problem, given: Compacted) -> Tensor:
    """(4, N) by slot: anchor, shift, target logit, target delta; the first two may move."""
    logit_N = target_logits(problem, given.hidden_ND, problem.weight_VD, given.targets_N)
    delta_N = torch.zeros_like(logit_N)
    if given.reference_NE is not None and problem.reference_weight_VE is not None:
        other_N = target_logits(
            problem, given.reference_NE, problem.reference_weight_VE, given.targets_N
        )
        delta_N = other_N if problem.shares_head else logit_N - other_N
    return torch.stack((logit_N, delta_N, logit_N, delta_N))
