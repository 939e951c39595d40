"""Three-axis positions (time, height, width) of a sequence's tokens, extended piece by piece.

A text token has the same position on all three axes. A vision span starts where the text stopped,
counts its own grid on each axis, and the text after it goes on behind the span's longest side
(Qwen3-VL: a video's frames are separate spans with their timestamps as text between them, so a
span normally has t = 1). Knows no token ids. Shapes: N = tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

Grid = tuple[int, int, int]
"""(t, h, w) after merging: one entry per token."""


def text_and_grids(
    spans: Iterable[tuple[int, int, Grid]], length: int, *, merge: int
) -> list[int | Grid]:
    """The pieces of a sequence of `length` tokens, in order, for `mrope_positions`.

    Each vision span gives its first token, the one behind its last, and the media's patches before
    merging; it shows one temporal patch of them.
    """
    pieces: list[int | Grid] = []
    behind = 0
    for start, end, (_, height, width) in spans:
        if start > behind:
            pieces.append(start - behind)
        pieces.append((1, height // merge, width // merge))
        behind = end
    if length > behind:
        pieces.append(length - behind)
    return pieces


def mrope_positions(pieces: Sequence[int | Grid], start: int) -> tuple[Tensor, int]:
    """Positions of consecutive pieces and the position that follows them.

    An int is the length of a run of text, a tuple a vision span's merged grid.

    Example:
        mrope_positions([3, (1, 2, 2), 1], 0)  # text 0 1 2, a 2x2 span from 3, text at 5
    """
    parts: list[Tensor] = []
    for piece in pieces:
        part, start = _text(piece, start) if isinstance(piece, int) else _span(piece, start)
        parts.append(part)
    if not parts:
        return torch.empty(3, 0, dtype=torch.long), start
    return torch.cat(parts, dim=1), start


def _text(length: int, start: int) -> tuple[Tensor, int]:
    return torch.arange(start, start + length).expand(3, -1), start + length


def _span(grid: Grid, start: int) -> tuple[Tensor, int]:
    if min(grid) < 1:
        raise ValueError(f"grid: expected positive (t, h, w), got {grid}")
    axes = torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij")
    # Time does not count towards the step: the reference advances by the longer spatial side only.
    return torch.stack(axes).flatten(1) + start, start + max(grid[1], grid[2])
