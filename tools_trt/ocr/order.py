"""Reading order of text lines: rows from top to bottom, each from left to right.

Two boxes share a row when they overlap vertically by at least half of the lower one's height,
so the rule holds at every font size. Columns are not separated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SHARED_HEIGHT = 0.5


def reading_order(quads: Sequence[np.ndarray]) -> list[int]:
    """Positions of the quadrilaterals [4, 2] in the order a person reads them."""
    spans = [(quad[:, 1].min(), quad[:, 1].max()) for quad in quads]
    rows: list[list[int]] = []
    for n in sorted(range(len(quads)), key=lambda n: sum(spans[n])):
        if rows and _share_row(spans[rows[-1][0]], spans[n]):
            rows[-1].append(n)
        else:
            rows.append([n])
    return [n for row in rows for n in sorted(row, key=lambda n: quads[n][:, 0].min())]


def _share_row(one: tuple[float, float], other: tuple[float, float]) -> bool:
    overlap = min(one[1], other[1]) - max(one[0], other[0])
    lower = min(one[1] - one[0], other[1] - other[0])
    return overlap >= SHARED_HEIGHT * lower
