"""One backward pass on a GPU: the gradient of the logits, one slice of the vocabulary at a time.

A plain loss (a multiple of p - 1[target]) needs no pass over its exponentials: each row's factor
is carried by the products' other operands. Every other loss gets one elementwise pass per slice.

Shapes: N = tokens, D = hidden width, V = vocabulary, C = columns of a slice, S = statistics.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pixelis_fast.kernels.linear_loss.coefficients import Coefficients
from pixelis_fast.kernels.linear_loss.combine_kernel import LARGEST_EXPONENT
from pixelis_fast.kernels.linear_loss.compaction import compact
from pixelis_fast.kernels.linear_loss.launch import Launcher
from pixelis_fast.kernels.linear_loss.launch_rows import Compacted, compacted, copy_rows
from pixelis_fast.kernels.linear_loss.problem import Forward, LinearStatistics, Problem
from pixelis_fast.kernels.triton_support import scratch_dtype

SLICE_COLUMNS = 16384
"""Of a slice computed again: 0.27 GB at 8192 tokens; the gradient of hidden is added ten times."""
ALIGNMENT = 16
"""Bytes; where rows of a buffer must start for TMA."""


def new_buffer(hidden_ND: Tensor, columns: int) -> Tensor:
    """(N, columns) for exponentials, unfilled; rows padded to where TMA lets them start."""
    dtype = scratch_dtype(hidden_ND.dtype)
    step = ALIGNMENT // dtype.itemsize
    return hidden_ND.new_empty(
        (hidden_ND.shape[0], (columns + step - 1) // step * step), dtype=dtype
    )


def put_targets(
    exponentials: Tensor,
    given: Compacted,
    statistics_SN: Tensor,
    per_row_4N: Tensor,
    *,
    first_column: int,
) -> None:
    """Puts minus the sum of the others at each target: scaled like a probability it is p - 1."""
    value = LinearStatistics(*statistics_SN)
    anchor_N, _, target_logit_N, _ = per_row_4N
    above_N = target_logit_N - anchor_N
    buried_N = above_N < -LARGEST_EXPONENT.value
    others_N = torch.where(
        buried_N, (value.lse - anchor_N).exp(), above_N.exp() * torch.expm1(-value.logprob)
    )
    column_N = given.targets_N - first_column
    inside_N = (column_N >= 0) & (column_N < exponentials.shape[1])
    index_N1 = torch.where(inside_N, column_N, 0)[:, None]
    present_N1 = exponentials.gather(1, index_N1)
    put_N1 = torch.where(inside_N[:, None], -others_N[:, None].to(exponentials.dtype), present_N1)
    exponentials.scatter_(1, index_N1, put_N1)


class _Slice(NamedTuple):
    """Columns [first, first + columns) of the logits' gradient, rows by slot.

    Plain losses leave it divided by each row's factor, which the products' other operands carry.
    """

    gradient: Tensor
    first_column: int
    columns: int


class Backward:
    """One backward pass: the gradient of the logits, slice by slice."""

    def __init__(self, problem: Problem, saved: Forward, row: Coefficients, *, plain: bool) -> None:
        self.problem, self.saved, self.plain = problem, saved, plain
        self.given = compacted(problem, compact(problem.valid_N))
        self.launcher = Launcher(problem, self.given)
        order_N = self.given.rows.order_N
        self.statistics_SN = saved.statistics_SN[:, order_N]
        self.row = Coefficients(*(values[order_N] for values in row))
        value = LinearStatistics(*self.statistics_SN)
        anchor_N, shift_N, target_logit_N, target_delta_N = saved.rows_RN
        self.inverse_sum_N = (anchor_N - value.lse).exp()
        self.factor_N = self.row.constant * self.inverse_sum_N * problem.scale if plain else None
        self.scaled_hidden_ND = self.given.hidden_ND if plain is False else self._scaled_hidden()
        moved_N = self.row.delta * (shift_N - target_delta_N)
        self.table_8N = torch.stack(
            (
                anchor_N,
                self.inverse_sum_N,
                self.row.constant + moved_N,
                self.row.logit,
                self.row.delta,
                self.row.uniform,
                _on_target(self.row, value, target_logit_N),
                target_logit_N,
            )
        )

    def _scaled_hidden(self) -> Tensor:
        slots_N = torch.arange(self.given.hidden_ND.shape[0], device=self.given.hidden_ND.device)
        return copy_rows(
            self.given.hidden_ND,
            slots_N,
            self.given.rows.kept_N,
            self.given.hidden_ND.dtype,
            factor_N=self.factor_N,
        )

    def token_rows(self, dhidden_ND: Tensor) -> Tensor:
        """float32 by slot -> the gradient of hidden by token, in its dtype."""
        rows = self.given.rows
        return copy_rows(
            dhidden_ND,
            rows.position_N,
            rows.valid_N,
            self.problem.hidden_ND.dtype,
            factor_N=self.factor_N,
        )

    def slices(self) -> Iterator[_Slice]:
        vocabulary = self.launcher.vocabulary
        stored = min(self.saved.exponentials.shape[1], vocabulary)
        if self.plain and stored:
            yield _Slice(self.saved.exponentials, 0, stored)
        ranges = list(self._ranges(stored, vocabulary))
        buffers = self._new_buffers(max((end - first for first, end in ranges), default=0))
        for first, end in ranges:
            yield self._slice(first, end, buffers, is_stored=first < stored)

    def _ranges(self, stored: int, vocabulary: int) -> Iterator[tuple[int, int]]:
        """Slices that need a buffer; none crosses the border of what is stored."""
        parts = [(stored, vocabulary)] if self.plain else [(0, stored), (stored, vocabulary)]
        for start, stop in parts:
            for first in range(start, stop, SLICE_COLUMNS):
                yield first, min(first + SLICE_COLUMNS, stop)

    def _new_buffers(self, columns: int) -> tuple[Tensor, Tensor]:
        hidden_ND = self.given.hidden_ND
        deltas = columns if self.problem.has_reference and not self.plain else 0
        return new_buffer(hidden_ND, columns), new_buffer(hidden_ND, deltas)

    def _slice(
        self, first: int, end: int, buffers: tuple[Tensor, Tensor], *, is_stored: bool
    ) -> _Slice:
        columns = end - first
        out, deltas = (buffer[:, : _padded(columns, buffer)] for buffer in buffers)
        if is_stored:
            exponentials = self.saved.exponentials[:, first:]
            deltas = self.saved.deltas[:, first:]
        else:
            exponentials = out
            self.launcher.statistics(
                self.saved.rows_RN,
                first_column=first,
                end_column=end,
                exponentials=out,
                deltas=deltas,
            )
        if self.plain:
            put_targets(
                out[:, :columns],
                self.given,
                self.statistics_SN,
                self.saved.rows_RN,
                first_column=first,
            )
        else:
            self.launcher.finish(
                self.table_8N,
                exponentials,
                deltas if deltas.shape[1] else None,
                out,
                first_column=first,
                columns=columns,
            )
        return _Slice(out, first, columns)


def _padded(columns: int, buffer: Tensor) -> int:
    step = ALIGNMENT // buffer.element_size()
    return min((columns + step - 1) // step * step, buffer.shape[1])


def _on_target(row: Coefficients, value: LinearStatistics, target_logit_N: Tensor) -> Tensor:
    """The target's gradient; constant · (p - 1) by expm1, since p may be 1 to all digits."""
    p_N = value.logprob.exp()
    return (
        row.constant * torch.expm1(value.logprob)
        + (row.constant - row.target)
        + row.logit * p_N * target_logit_N
        + row.uniform
    )
