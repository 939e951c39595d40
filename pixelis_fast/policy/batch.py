"""What one forward takes: sequences laid end to end without padding, and their vision features.

The same batch serves training (no caches) and rollout (each sequence continues its cache). A cut
may fall anywhere, inside a vision span too: a piece then carries that part of the span's features.

Shapes: N = tokens of all sequences, M = vision tokens among them, D = hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class VisionFeatures:
    """Tokens of one or more images or frames as the decoder takes them.

    Example:
        features = policy.encode_vision(patches_PK, [(1, 28, 28)])  # 196 tokens
    """

    embeds_MD: Tensor
    """Replaces the placeholders' embeddings."""
    deepstack: tuple[Tensor, ...]
    """One (M, D) per early decoder layer, added behind it."""

    def __len__(self) -> int:
        return self.embeds_MD.shape[0]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.embeds_MD, *self.deepstack))

    def part(self, start: int, stop: int) -> VisionFeatures:
        """Tokens start .. stop as views."""
        layers = tuple(layer_MD[start:stop] for layer_MD in self.deepstack)
        return VisionFeatures(self.embeds_MD[start:stop], layers)

    def split(self, sizes: Sequence[int]) -> list[VisionFeatures]:
        """Consecutive parts of the given sizes, which must sum to all tokens."""
        if sum(sizes) != len(self):
            raise ValueError(f"sizes: expected a sum of {len(self)}, got {sum(sizes)}")
        return [self.part(a, b) for a, b in pairwise(accumulate(sizes, initial=0))]

    @staticmethod
    def join(parts: Sequence[VisionFeatures]) -> VisionFeatures:
        """All tokens of the parts, in order."""
        if len(parts) == 1:
            return parts[0]
        layers = zip(*(part.deepstack for part in parts), strict=True)
        embeds_MD = torch.cat([part.embeds_MD for part in parts])
        return VisionFeatures(embeds_MD, tuple(torch.cat(layer) for layer in layers))


@dataclass(frozen=True)
class PackedBatch:
    """Sequences end to end.

    Example:
        PackedBatch(ids_N, mrope_positions([7], 0)[0], lengths=[7])
    """

    input_ids_N: Tensor
    positions_3N: Tensor
    lengths: list[int]
    """Tokens of each sequence; no sequence is empty."""
    visual_index_M: Tensor | None = None
    """Where the features' tokens stand among the N."""
    visual: VisionFeatures | None = None

    def __post_init__(self) -> None:
        num_tokens = self.input_ids_N.shape[0]
        if not self.lengths or min(self.lengths) < 1 or sum(self.lengths) != num_tokens:
            raise ValueError(
                f"lengths: expected positive numbers that sum to {num_tokens}, got {self.lengths}"
            )
        if tuple(self.positions_3N.shape) != (3, num_tokens):
            raise ValueError(
                f"positions_3N: expected (3, {num_tokens}), got {tuple(self.positions_3N.shape)}"
            )
        if (self.visual is None) != (self.visual_index_M is None):
            raise ValueError("visual: expected both visual and visual_index_M, or neither")
        if self.visual is not None and self.visual_index_M is not None:
            places = self.visual_index_M.shape[0]
            if places != len(self.visual):
                raise ValueError(
                    f"visual_index_M: expected {len(self.visual)} places, got {places}"
                )

    @property
    def num_tokens(self) -> int:
        return self.input_ids_N.shape[0]


def pack(batches: Sequence[PackedBatch]) -> PackedBatch:
    """Several batches as one, their sequences in order."""
    if len(batches) == 1:
        return batches[0]
    indices, features = [], []
    start = 0
    for batch in batches:
        if batch.visual is not None and batch.visual_index_M is not None:
            indices.append(batch.visual_index_M + start)
            features.append(batch.visual)
        start += batch.num_tokens
    return PackedBatch(
        input_ids_N=torch.cat([batch.input_ids_N for batch in batches]),
        positions_3N=torch.cat([batch.positions_3N for batch in batches], dim=1),
        lengths=[length for batch in batches for length in batch.lengths],
        visual_index_M=torch.cat(indices) if indices else None,
        visual=VisionFeatures.join(features) if features else None,
    )
