"""Every tiled kernel of the op in every committed tile and with every combination of switches.

The arguments are declared as launch.py passes them: descriptors of the two dtypes, buffers that
torch allocated (multiples of 16 bytes), sizes that may be any number. `*_switches` list what the
options of the op can reach, no more: a test records every launch of a sweep and compares.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from triton.runtime.jit import JITFunction

from pixelis_fast.kernels.linear_loss.pair_statistics_kernel import pair_statistics_kernel
from pixelis_fast.kernels.linear_loss.product_kernels import (
    hidden_product_kernel,
    weight_product_kernel,
)
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
    return found


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

    def tile(self, switches: dict[str, bool], *, pair: bool) -> Tile:
        """The launcher's, of a statistics kernel."""
        return self.tiles.statistics_tile(
            pair=pair,
            softcap=switches["HAS_SOFTCAP"],
            wants_mean=switches["WANTS_MEAN"],
            only_flagged=switches["ONLY_FLAGGED"],
            stores_no_delta=switches["STORES"] and not switches.get("STORES_DELTA", False),
        )

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
    for switches in statistics_switches():
        yield _statistics(setting, switches)
    for switches in pair_switches():
        yield _pair(setting, switches)
    for accumulates in (False, True):
        yield _hidden_product(setting, {"ACCUMULATES": accumulates})
    yield _weight_product(setting)


Switches = dict[str, bool]


def statistics_switches() -> Iterator[Switches]:
    """Forward sums, in a second pass over flagged rows alone; backward stores what was not kept."""
    for softcap in (False, True):
        for stores, mean, flagged in product((True, False), (False, True), (False, True)):
            yield _switches(softcap, stores=stores, sums=True, mean=mean, flagged=flagged)
        yield _switches(softcap, stores=True, sums=False)


def pair_switches() -> Iterator[Switches]:
    """With a softcap no head is shared; backward does without deltas where the loss is plain,
    which it is not with a softcap."""
    for shares, softcap in ((False, False), (False, True), (True, False)):
        head = {"SHARES_HEAD": shares}
        for stores, deltas in ((True, True), (True, False), (False, False)):
            kept = {"STORES_DELTA": deltas, **head}
            for mean, flagged in product((False, True), repeat=2):
                sums = _switches(softcap, stores=stores, sums=True, mean=mean, flagged=flagged)
                yield sums | kept
            if stores and (deltas or not softcap):
                yield _switches(softcap, stores=True, sums=False) | kept


def _switches(
    softcap: bool, *, stores: bool, sums: bool, mean: bool = False, flagged: bool = False
) -> Switches:
    return {
        "HAS_SOFTCAP": softcap,
        "STORES": stores,
        "WRITES_SUMS": sums,
        "WANTS_MEAN": mean,
        "ONLY_FLAGGED": flagged,
    }


def title(kernel: str, switches: Switches) -> str:
    """ "pair: stores, writes sums": the switches that are on."""
    words = [name.lower().replace("_", " ") for name, on in switches.items() if on]
    return f"{kernel}: {', '.join(words) or 'plain'}"


STATISTICS = {
    "targets_ptr": INDICES,
    "anchor_ptr": FLOATS,
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


def _statistics(setting: _Setting, switches: Switches) -> CompileCase:
    tile = setting.tile(switches, pair=False)
    hidden = setting.matrix(tile.rows, tile.depth)
    signature = {
        "hidden": hidden,
        "weight": setting.matrix(tile.columns, tile.depth),
        "stored": _stored(setting, tile, hidden, used=switches["STORES"]),
        **STATISTICS,
        "flagged_ptr": FLAGGED[switches["WRITES_SUMS"]],
    }
    constants = {"SUBTILES": tile.subtiles, **switches}
    name = title("statistics", switches)
    return setting.case(name, statistics_kernel, tile, signature, constants)


def _pair(setting: _Setting, switches: Switches) -> CompileCase:
    tile = setting.tile(switches, pair=True)
    hidden = setting.matrix(tile.rows, tile.depth)
    weight = setting.matrix(tile.columns, tile.depth)
    signature = {
        "hidden": hidden,
        "weight": weight,
        "reference_hidden": hidden,
        "reference_weight": weight,
        "stored": _stored(setting, tile, hidden, used=switches["STORES"]),
        "stored_delta": _stored(setting, tile, hidden, used=switches["STORES_DELTA"]),
        "shift_ptr": FLOATS,
        "reference_width": "i32:16",
        **STATISTICS,
        "flagged_ptr": FLAGGED[switches["WRITES_SUMS"]],
    }
    constants = {"SUBTILES": tile.subtiles, **switches}
    return setting.case(title("pair", switches), pair_statistics_kernel, tile, signature, constants)


FLAGGED = {True: "*i8:16", False: COUNT}
"""By whether sums are written; without them the launcher passes the count, which nothing reads."""


def _stored(setting: _Setting, tile: Tile, otherwise: str, *, used: bool) -> str:
    """A buffer's type; the launcher passes the hidden states in place of one that is not used."""
    return setting.matrix(tile.rows, tile.columns // tile.subtiles) if used else otherwise


PRODUCT = {
    "count_ptr": COUNT,
    "num_rows": "i32",
    "vocabulary": "i32",
    "width": "i32:16",
    "gradient_stride": "i32:16",
    "first_column": "i32",
    "columns": "i32",
}


def _hidden_product(setting: _Setting, switches: Switches) -> CompileCase:
    tile = setting.tiles.hidden_product
    signature = {
        "gradient": setting.matrix(tile.rows, tile.depth),
        "weight": setting.matrix(tile.depth, tile.columns),
        "out_ptr": FLOATS,
        **PRODUCT,
    }
    name = title("hidden product", switches)
    return setting.case(name, hidden_product_kernel, tile, signature, switches)


def _weight_product(setting: _Setting) -> CompileCase:
    tile = setting.tiles.weight_product
    signature = {
        "gradient": setting.matrix(tile.depth, tile.rows),
        "hidden": setting.matrix(tile.depth, tile.columns),
        "out": setting.matrix(tile.rows, tile.columns),
        **PRODUCT,
    }
    return setting.case("weight product", weight_product_kernel, tile, signature, {})
