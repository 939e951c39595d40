"""Every kernel of the op in every committed tile, for the compile-only gate.

The arguments are declared as launch.py passes them: descriptors of the two dtypes, buffers that
torch allocated (multiples of 16 bytes), sizes that may be any number.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from triton.runtime.jit import JITFunction

from pixelis_fast.kernels.linear_loss.combine_kernel import combine_kernel
from pixelis_fast.kernels.linear_loss.finish_kernel import finish_kernel
from pixelis_fast.kernels.linear_loss.launch import (
    COMBINE_ROWS,
    COMBINE_TILES,
    FINISH_COLUMNS,
    FINISH_ROWS,
    FINISH_WARPS,
)
from pixelis_fast.kernels.linear_loss.launch_rows import ROW_BLOCK
from pixelis_fast.kernels.linear_loss.pair_statistics_kernel import pair_statistics_kernel
from pixelis_fast.kernels.linear_loss.product_kernels import (
    hidden_product_kernel,
    weight_product_kernel,
)
from pixelis_fast.kernels.linear_loss.row_kernels import copy_rows_kernel, target_logit_kernel
from pixelis_fast.kernels.linear_loss.statistics_kernel import statistics_kernel
from pixelis_fast.kernels.linear_loss.triton_config import (
    AMPERE,
    BLACKWELL,
    FLOAT32,
    HOPPER,
    Tile,
    Tiles,
)
from pixelis_fast.kernels.offline import CAPABILITIES, CompileCase

FLOATS, INDICES, COUNT = "*fp32:16", "*i64:16", "*i32:16"
TENSOR_CORES = frozenset({"mma", "hgmma", "tcgen05"})
PROGRAMS = 132


def cases() -> list[CompileCase]:
    found: list[CompileCase] = []
    for setting in (
        _Setting("blackwell", BLACKWELL, "bf16", (100,), TENSOR_CORES | {"tma"}),
        _Setting("hopper", HOPPER, "bf16", (90,), TENSOR_CORES | {"tma"}),
        _Setting("ampere", AMPERE, "bf16", (80,), TENSOR_CORES),
        _Setting("float32", FLOAT32, "fp32", CAPABILITIES, frozenset()),
    ):
        found += _tile_cases(setting)
    return found + list(_row_cases())


@dataclass(frozen=True)
class _Setting:
    """One table of tiles, the dtype it serves, and what its products must contain."""

    name: str
    tiles: Tiles
    dtype: str
    targets: tuple[int, ...]
    claims: frozenset[str]

    def matrix(self, rows: int, columns: int) -> str:
        block = f"tensordesc<{self.dtype}[{rows}, {columns}]>"
        return block if self.tiles.tma else f"*{self.dtype}:16"

    def case(
        self,
        name: str,
        kernel: JITFunction[Any],
        tile: Tile,
        signature: dict[str, str],
        switches: dict[str, Any],
    ) -> CompileCase:
        sizes = {
            "PROGRAMS": PROGRAMS,
            "ROWS": tile.rows,
            "COLUMNS": tile.columns,
            "DEPTH": tile.depth,
            "GROUP": tile.group,
            "TMA": self.tiles.tma,
            "INTERPRET": False,
        }
        return CompileCase(
            f"{self.name} {name}",
            kernel,
            signature,
            sizes | switches,
            tile.warps,
            tile.stages,
            claims=self.claims,
            targets=self.targets,
        )


def _tile_cases(setting: _Setting) -> Iterator[CompileCase]:
    for purpose, stores, sums in (
        ("forward stored", True, True),
        ("forward lean", False, True),
        ("again", True, False),
    ):
        yield _statistics(setting, f"statistics {purpose}", stores, sums)
        for head in ("two heads", "shared head"):
            title = f"pair {purpose}, {head}"
            yield _pair(setting, title, stores, sums, head == "shared head")
    for accumulates in (False, True):
        title = f"hidden product{', added' if accumulates else ''}"
        yield _hidden_product(setting, title, accumulates)
    yield _weight_product(setting)


STATISTICS = {
    "targets_ptr": INDICES,
    "anchor_ptr": FLOATS,
    "flagged_ptr": "*i8:16",
    "count_ptr": COUNT,
    "partials_ptr": FLOATS,
    "num_rows": "i32",
    "vocabulary": "i32",
    "width": "i32:16",
    "first_column": "i32",
    "end_column": "i32",
    "stored_columns": "i32",
    "stored_stride": "i32:16",
    "scale": "fp32",
    "softcap": "fp32",
}


def _switches(tile: Tile, stores: bool, sums: bool) -> dict[str, Any]:
    return {
        "SUBTILES": tile.subtiles,
        "HAS_SOFTCAP": False,
        "STORES": stores,
        "WRITES_SUMS": sums,
        "WANTS_MEAN": False,
        "ONLY_FLAGGED": False,
    }


def _statistics(setting: _Setting, name: str, stores: bool, sums: bool) -> CompileCase:
    tile = setting.tiles.statistics
    hidden = setting.matrix(tile.rows, tile.depth)
    signature = {
        "hidden": hidden,
        "weight": setting.matrix(tile.columns, tile.depth),
        "stored": setting.matrix(tile.rows, tile.columns // tile.subtiles) if stores else hidden,
        **STATISTICS,
    }
    return setting.case(name, statistics_kernel, tile, signature, _switches(tile, stores, sums))


def _pair(setting: _Setting, name: str, stores: bool, sums: bool, shares_head: bool) -> CompileCase:
    tile = setting.tiles.pair_statistics
    hidden = setting.matrix(tile.rows, tile.depth)
    weight = setting.matrix(tile.columns, tile.depth)
    stored = setting.matrix(tile.rows, tile.columns // tile.subtiles) if stores else hidden
    signature = {
        "hidden": hidden,
        "weight": weight,
        "reference_hidden": hidden,
        "reference_weight": weight,
        "stored": stored,
        "stored_delta": stored,
        "shift_ptr": FLOATS,
        "reference_width": "i32:16",
        **STATISTICS,
    }
    switches = _switches(tile, stores, sums) | {"STORES_DELTA": stores, "SHARES_HEAD": shares_head}
    return setting.case(name, pair_statistics_kernel, tile, signature, switches)


PRODUCT = {
    "count_ptr": COUNT,
    "num_rows": "i32",
    "vocabulary": "i32",
    "width": "i32:16",
    "gradient_stride": "i32:16",
    "first_column": "i32",
    "columns": "i32",
}


def _hidden_product(setting: _Setting, name: str, accumulates: bool) -> CompileCase:
    tile = setting.tiles.hidden_product
    signature = {
        "gradient": setting.matrix(tile.rows, tile.depth),
        "weight": setting.matrix(tile.depth, tile.columns),
        "out_ptr": FLOATS,
        **PRODUCT,
    }
    return setting.case(name, hidden_product_kernel, tile, signature, {"ACCUMULATES": accumulates})


def _weight_product(setting: _Setting) -> CompileCase:
    tile = setting.tiles.weight_product
    signature = {
        "gradient": setting.matrix(tile.depth, tile.rows),
        "hidden": setting.matrix(tile.depth, tile.columns),
        "out": setting.matrix(tile.rows, tile.columns),
        **PRODUCT,
    }
    return setting.case("weight product", weight_product_kernel, tile, signature, {})


def _row_cases() -> Iterator[CompileCase]:
    rows = {"source_ptr": "*bf16:16", "out_ptr": "*bf16:16", "index_ptr": INDICES}
    for factor in (False, True):
        yield CompileCase(
            f"copy rows{' times factor' if factor else ''}",
            copy_rows_kernel,
            rows | {"factor_ptr": FLOATS, "kept_ptr": "*i8:16", "width": "i32"},
            {"HAS_FACTOR": factor, "BLOCK": ROW_BLOCK},
            num_warps=4,
            num_stages=3,
        )
    yield CompileCase(
        "target logit",
        target_logit_kernel,
        {
            "hidden_ptr": "*bf16:16",
            "weight_ptr": "*bf16:16",
            "targets_ptr": INDICES,
            "out_ptr": FLOATS,
            "width": "i32",
            "scale": "fp32",
            "softcap": "fp32",
        },
        {"HAS_SOFTCAP": True, "BLOCK": ROW_BLOCK},
        num_warps=4,
        num_stages=3,
    )
    for reference in (False, True):
        yield CompileCase(
            f"combine{' pair' if reference else ''}",
            combine_kernel,
            {
                "partials_ptr": FLOATS,
                "target_logit_ptr": FLOATS,
                "target_delta_ptr": FLOATS,
                "anchor_ptr": FLOATS,
                "shift_ptr": FLOATS,
                "flagged_ptr": "*i8:16",
                "statistics_ptr": FLOATS,
                "count_ptr": COUNT,
                "num_rows": "i32",
                "column_tiles": "i32",
                "vocabulary": "i32",
            },
            {
                "HAS_REFERENCE": reference,
                "WANTS_MEAN": True,
                "ONLY_FLAGGED": False,
                "ROWS": COMBINE_ROWS,
                "TILES": COMBINE_TILES,
            },
            num_warps=4,
            num_stages=3,
        )
        yield CompileCase(
            f"finish{' with deltas' if reference else ''}",
            finish_kernel,
            {
                "exponentials_ptr": "*bf16:16",
                "deltas_ptr": "*bf16:16",
                "gradient_ptr": "*bf16:16",
                "rows_ptr": FLOATS,
                "targets_ptr": INDICES,
                "count_ptr": COUNT,
                "num_rows": "i32",
                "first_column": "i32",
                "columns": "i32",
                "stride": "i32:16",
                "delta_stride": "i32:16",
                "gradient_stride": "i32:16",
                "scale": "fp32",
                "softcap": "fp32",
            },
            {
                "HAS_DELTA": reference,
                "HAS_SOFTCAP": True,
                "PADDING": 64,
                "ROWS": FINISH_ROWS,
                "COLUMNS": FINISH_COLUMNS,
            },
            num_warps=FINISH_WARPS,
            num_stages=3,
        )
