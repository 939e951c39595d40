"""Tile sizes per kernel and device generation; data, with the reason for each bound.

Chosen by the offline gate (registers, no spills, shared memory) for sm_80 and sm_90; a tuned table
replaces them by measurement. The tile of the two statistics kernels never depends on the number of
tokens: a row's sums would otherwise depend on its batch.
"""

from dataclasses import dataclass, replace

import torch

from pixelis_fast.kernels.checks import check
from pixelis_fast.kernels.triton_support import INTERPRETED, TRITON_VERSION


@dataclass(frozen=True)
class Tile:
    """rows × columns of output, depth of one step of the product."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    group: int = 8
    """Row tiles walked together, so that their operand stays in L2."""
    subtiles: int = 1
    """Parts the epilogue of a statistics kernel works through: 1 or 2."""
    crowded_rows: int | None = None
    """Rows where more lives in registers at once, if other than `rows`: whole tiles spill there."""
    crowded_stages: int | None = None
    """Stages there, if other than `stages`."""

    def crowded(self) -> "Tile":
        """Its columns stay, and with them the layout of partial sums. Fewer rows are worked through
        whole: their halves spill up to 136 bytes on sm_90 with triton 3.6."""
        return replace(
            self,
            rows=self.crowded_rows or self.rows,
            subtiles=1 if self.crowded_rows else self.subtiles,
            stages=self.crowded_stages or self.stages,
        )


@dataclass(frozen=True)
class Tiles:
    """One configuration of the op."""

    statistics: Tile
    pair_statistics: Tile
    hidden_product: Tile
    weight_product: Tile
    tma: bool
    """Matrices by TMA descriptor; by pointers otherwise."""

    def __post_init__(self) -> None:
        """The rows of a statistics tile cover whole steps of the product that reads them."""
        for tile in (*self._of_statistics(), *(t.crowded() for t in self._of_statistics())):
            whole = tile.rows % self.weight_product.depth == 0
            check(whole, "tile rows", f"a multiple of {self.weight_product.depth}", tile.rows)

    def _of_statistics(self) -> tuple[Tile, Tile]:
        return self.statistics, self.pair_statistics

    def statistics_tile(
        self,
        *,
        pair: bool,
        softcap: bool,
        wants_mean: bool,
        only_flagged: bool,
        stores_no_delta: bool,
    ) -> Tile:
        """A branch around the tile, or logits that live beside exponentials, crowd registers; so
        do a pair's exponentials that are kept alone (8 bytes of spills on sm_90)."""
        tile = self.pair_statistics if pair else self.statistics
        is_crowded = only_flagged or wants_mean or (pair and (softcap or stores_no_delta))
        return tile.crowded() if is_crowded else tile


PAIR_SUBTILES = 2 if TRITON_VERSION < (3, 7) else 1
"""Whole tiles spill with triton 3.6, halves with 3.9: `make compile` fails with the other one."""
PAIR_DEPTH = 32 if TRITON_VERSION < (3, 7) else 16
"""Of float32 pairs: the other depth spills in 3 configurations with either version; with 3.6 one
spills 8 bytes at this one too."""
BLACKWELL = Tiles(
    statistics=Tile(128, 128, 64, warps=8, stages=4, crowded_rows=64),
    pair_statistics=Tile(128, 32, 64, warps=8, stages=3, crowded_rows=64, crowded_stages=2),
    hidden_product=Tile(128, 128, 64, warps=8, stages=4),
    weight_product=Tile(128, 128, 64, warps=8, stages=4),
    tma=True,
)
HOPPER = Tiles(
    statistics=Tile(128, 256, 64, warps=8, stages=3, subtiles=2, crowded_rows=64),
    pair_statistics=Tile(128, 128, 64, warps=8, stages=3, subtiles=PAIR_SUBTILES, crowded_rows=64),
    hidden_product=Tile(128, 256, 64, warps=8, stages=3),
    weight_product=Tile(128, 256, 64, warps=8, stages=3),
    tma=True,
)
AMPERE = Tiles(
    statistics=Tile(128, 128, 64, warps=8, stages=3),
    pair_statistics=Tile(128, 64, 64, warps=8, stages=3, crowded_rows=64),
    hidden_product=Tile(128, 128, 64, warps=8, stages=3),
    weight_product=Tile(128, 128, 64, warps=8, stages=3),
    tma=False,
)
FLOAT32 = Tiles(
    statistics=Tile(64, 64, 16, warps=8, stages=2),
    pair_statistics=Tile(32, 32, PAIR_DEPTH, warps=8, stages=2),
    hidden_product=Tile(64, 64, 32, warps=8, stages=2),
    weight_product=Tile(64, 64, 16, warps=8, stages=3),
    tma=False,
)
"""Exact float32 products run on the ordinary units, not the tensor cores."""
_SMALL = Tile(64, 128, 64, warps=4, stages=1, group=2, subtiles=2)
SMALL = Tiles(_SMALL, _SMALL, _SMALL, _SMALL, tma=True)
"""The interpreter's: every kind of ragged tail at test sizes."""


def tiles_for(device: torch.device, dtype: torch.dtype) -> Tiles:
    if INTERPRETED:
        return SMALL
    if dtype == torch.float32:
        return FLOAT32
    major, _ = torch.cuda.get_device_capability(device)
    if major >= 10:
        return BLACKWELL
    return HOPPER if major == 9 else AMPERE
