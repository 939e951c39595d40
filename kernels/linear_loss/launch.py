"""One function per kernel launch: buffers to descriptors, sizes to a grid.

Shapes: N = tokens, D = hidden width, E = the reference's width, V = vocabulary, C = columns of a
buffer, S = statistics.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from pixelis_fast.kernels.linear_loss.combine_kernel import combine_kernel
from pixelis_fast.kernels.linear_loss.finish_kernel import finish_kernel
from pixelis_fast.kernels.linear_loss.launch_rows import Compacted
from pixelis_fast.kernels.linear_loss.pair_statistics_kernel import pair_statistics_kernel
from pixelis_fast.kernels.linear_loss.problem import NAMES, Problem
from pixelis_fast.kernels.linear_loss.product_kernels import (
    hidden_product_kernel,
    weight_product_kernel,
)
from pixelis_fast.kernels.linear_loss.statistics_kernel import statistics_kernel
from pixelis_fast.kernels.linear_loss.tile_sums import NUM_PAIR_SUMS, NUM_SUMS
from pixelis_fast.kernels.linear_loss.triton_config import Tile, Tiles, tiles_for
from pixelis_fast.kernels.triton_support import (
    COMPILER_OPTIONS,
    INTERPRETED,
    descriptor,
    num_programs,
)

COMBINE_ROWS, COMBINE_TILES = 64, 16
FINISH_ROWS, FINISH_COLUMNS, FINISH_WARPS = 16, 512, 16


class Launcher:
    """Launches over one problem; `per_row` is (4, N): anchor, shift, target logit, target delta."""

    def __init__(self, problem: Problem, given: Compacted) -> None:
        self.problem = problem
        self.given = given
        self.device = problem.hidden_ND.device
        self.tiles: Tiles = tiles_for(self.device, problem.hidden_ND.dtype)
        self.num_rows, self.width = given.hidden_ND.shape
        self.vocabulary = problem.weight_VD.shape[0]

    def tile(
        self,
        *,
        wants_mean: bool = False,
        only_flagged: bool = False,
        stores_no_delta: bool = False,
    ) -> Tile:
        return self.tiles.statistics_tile(
            pair=self.problem.has_reference,
            softcap=self.problem.softcap > 0,
            wants_mean=wants_mean,
            only_flagged=only_flagged,
            stores_no_delta=stores_no_delta,
        )

    def new_partials(self) -> Tensor:
        sums = NUM_PAIR_SUMS if self.problem.has_reference else NUM_SUMS
        tile = self.tile()
        tiles = triton.cdiv(self.vocabulary, tile.columns) * tile.subtiles
        return torch.empty((sums, tiles, self.num_rows), dtype=torch.float32, device=self.device)

    @property
    def _ends(self) -> tuple[int, int, int]:
        return self.num_rows, self.vocabulary, self.width

    def _matrix(self, matrix: Tensor, rows: int, columns: int) -> Any:
        """As the kernels take it: a descriptor of blocks, or the tensor itself."""
        return descriptor(matrix, [rows, columns]) if self.tiles.tma else matrix

    def _sizes(self, tile: Tile, programs: int) -> dict[str, Any]:
        return {
            "PROGRAMS": programs,
            "ROWS": tile.rows,
            "COLUMNS": tile.columns,
            "DEPTH": tile.depth,
            "GROUP": tile.group,
            "TMA": self.tiles.tma,
            "INTERPRET": INTERPRETED,
            "num_warps": tile.warps,
            "num_stages": tile.stages,
            **COMPILER_OPTIONS,
        }

    def _grid(self, tile: Tile, rows: int, columns: int) -> tuple[int]:
        tiles = triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.columns)
        return (max(1, min(num_programs(self.device), tiles)),)

    def statistics(
        self,
        per_row_4N: Tensor,
        *,
        first_column: int,
        end_column: int,
        exponentials: Tensor,
        deltas: Tensor,
        partials: Tensor | None = None,
        flagged: Tensor | None = None,
        only_flagged: bool = False,
    ) -> None:
        """Sums into partials (where given), exponentials and deltas into their buffers."""
        problem, given = self.problem, self.given
        wants_mean = problem.wants_mean and partials is not None
        stored_columns = min(exponentials.shape[1], self.vocabulary)
        stores_delta = deltas.shape[1] > 0
        tile = self.tile(
            wants_mean=wants_mean,
            only_flagged=only_flagged,
            stores_no_delta=stored_columns > 0 and not stores_delta,
        )
        grid = self._grid(tile, self.num_rows, end_column - first_column)
        anchor_N, shift_N, *_ = per_row_4N
        block = (tile.rows, tile.columns // tile.subtiles)
        hidden = self._matrix(given.hidden_ND, tile.rows, tile.depth)
        weight = self._matrix(problem.weight_VD, tile.columns, tile.depth)
        stored = self._matrix(exponentials, *block) if stored_columns else hidden
        switches = {
            "HAS_SOFTCAP": problem.softcap > 0,
            "STORES": stored_columns > 0,
            "WRITES_SUMS": partials is not None,
            "WANTS_MEAN": wants_mean,
            "ONLY_FLAGGED": only_flagged,
        }
        sizes = self._sizes(tile, grid[0]) | {"SUBTILES": tile.subtiles}
        count_1 = given.rows.count_1
        partials = anchor_N if partials is None else partials
        flagged = count_1 if flagged is None else flagged
        columns = (
            first_column,
            end_column,
            stored_columns,
            exponentials.stride(0),
            problem.scale,
            problem.softcap,
        )
        if given.reference_NE is None or problem.reference_weight_VE is None:
            statistics_kernel[grid](
                hidden,
                weight,
                stored,
                given.targets_N,
                anchor_N,
                flagged,
                count_1,
                partials,
                *self._ends,
                *columns,
                **switches,
                **sizes,
            )
            return
        reference_hidden = self._matrix(given.reference_NE, tile.rows, tile.depth)
        reference_weight = self._matrix(problem.reference_weight_VE, tile.columns, tile.depth)
        pair_statistics_kernel[grid](
            hidden,
            weight,
            reference_hidden,
            reference_weight,
            stored,
            self._matrix(deltas, *block) if stores_delta else hidden,
            given.targets_N,
            anchor_N,
            shift_N,
            flagged,
            count_1,
            partials,
            *self._ends,
            given.reference_NE.shape[1],
            *columns,
            SHARES_HEAD=problem.shares_head,
            STORES_DELTA=stores_delta,
            **switches,
            **sizes,
        )

    def combine(
        self,
        per_row_4N: Tensor,
        partials: Tensor,
        flagged: Tensor,
        statistics_SN: Tensor,
        *,
        only_flagged: bool,
    ) -> None:
        """Statistics in slot order; flags rows and moves their anchors."""
        anchor_N, shift_N, target_logit_N, target_delta_N = per_row_4N
        combine_kernel[(triton.cdiv(self.num_rows, COMBINE_ROWS),)](
            partials,
            target_logit_N,
            target_delta_N,
            anchor_N,
            shift_N,
            flagged,
            statistics_SN,
            self.given.rows.count_1,
            self.num_rows,
            partials.shape[1],
            self.vocabulary,
            HAS_REFERENCE=self.problem.has_reference,
            WANTS_MEAN=self.problem.wants_mean,
            ONLY_FLAGGED=only_flagged,
            ROWS=COMBINE_ROWS,
            TILES=COMBINE_TILES,
            **COMPILER_OPTIONS,
        )

    def finish(
        self,
        table_8N: Tensor,
        exponentials: Tensor,
        deltas: Tensor | None,
        out: Tensor,
        *,
        first_column: int,
        columns: int,
    ) -> None:
        """The gradient of the logits of one slice, from its exponentials; out may be the input."""
        problem = self.problem
        grid = (triton.cdiv(self.num_rows, FINISH_ROWS), triton.cdiv(columns, FINISH_COLUMNS))
        finish_kernel[grid](
            exponentials,
            exponentials if deltas is None else deltas,
            out,
            table_8N,
            self.given.targets_N,
            self.given.rows.count_1,
            self.num_rows,
            first_column,
            columns,
            exponentials.stride(0),
            0 if deltas is None else deltas.stride(0),
            out.stride(0),
            problem.scale,
            problem.softcap,
            HAS_DELTA=deltas is not None,
            HAS_SOFTCAP=problem.softcap > 0,
            PADDING=self.tiles.weight_product.depth,
            ROWS=FINISH_ROWS,
            COLUMNS=FINISH_COLUMNS,
            num_warps=FINISH_WARPS,
            **COMPILER_OPTIONS,
        )

    def hidden_product(
        self,
        gradient: Tensor,
        out_ND: Tensor,
        *,
        first_column: int,
        columns: int,
        accumulates: bool,
    ) -> None:
        """out (+)= gradient · weight[first : first + columns]."""
        tile = self.tiles.hidden_product
        grid = self._grid(tile, self.num_rows, self.width)
        hidden_product_kernel[grid](
            self._matrix(gradient[:, :columns], tile.rows, tile.depth),
            self._matrix(self.problem.weight_VD, tile.depth, tile.columns),
            out_ND,
            self.given.rows.count_1,
            *self._ends,
            gradient.stride(0),
            first_column,
            columns,
            ACCUMULATES=accumulates,
            **self._sizes(tile, grid[0]),
        )

    def weight_product(
        self,
        gradient: Tensor,
        hidden_ND: Tensor,
        out_VD: Tensor,
        *,
        first_column: int,
        columns: int,
    ) -> None:
        """out[first : first + columns] = gradientᵀ · hidden."""
        tile = self.tiles.weight_product
        grid = self._grid(tile, columns, self.width)
        weight_product_kernel[grid](
            self._matrix(gradient[:, :columns], tile.depth, tile.rows),
            self._matrix(hidden_ND, tile.depth, tile.columns),
            self._matrix(out_VD, tile.rows, tile.columns),
            self.given.rows.count_1,
            *self._ends,
            gradient.stride(0),
            first_column,
            columns,
            **self._sizes(tile, grid[0]),
        )


def new_statistics(num_rows: int, device: torch.device) -> Tensor:
    return torch.zeros((len(NAMES), num_rows), dtype=torch.float32, device=device)
