"""What an experience is found by: a text and a pixel embedding, served as one inner product.

Shapes: T = text values, P = pixel values, D = T + P.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

UNIT_TOLERANCE = 1e-3
"""Of an embedding's length, which is one, or zero where a query has no words or no pixels."""


@dataclass(frozen=True, eq=False)
class MemoryKey:
    """Both embeddings, float32, each of length one (or all zeros).

    Example:
        MemoryKey(text_T=text_embedding("How many coins?"), pixel_P=pixels)
    """

    text_T: np.ndarray
    pixel_P: np.ndarray


@dataclass(frozen=True)
class HybridWeights:
    """How much words and pixels count: similarity = text · cos + pixel · cos, their sum being 1.

    Example:
        HybridWeights(text=0.3, pixel=0.7)
    """

    text: float = 0.5
    pixel: float = 0.5

    def __post_init__(self) -> None:
        total = self.text + self.pixel
        if not (self.text >= 0 and self.pixel >= 0 and abs(total - 1) < 1e-9):
            raise ValueError(
                "hybrid weights: expected two numbers from 0 that sum to 1, "
                f"got {self.text} and {self.pixel}"
            )


def hybrid_vector(key: MemoryKey, weights: HybridWeights) -> np.ndarray:
    """(D) float32 whose inner product with another's is the hybrid similarity."""
    return hybrid_vectors(key.text_T[None], key.pixel_P[None], weights)[0]


def hybrid_vectors(
    texts_NT: np.ndarray, pixels_NP: np.ndarray, weights: HybridWeights
) -> np.ndarray:
    """(N, D): root-weighted halves side by side, so that products of halves carry the weights."""
    scales = (math.sqrt(weights.text), math.sqrt(weights.pixel))
    halves = [rows * np.float32(s) for rows, s in zip((texts_NT, pixels_NP), scales, strict=True)]
    return np.ascontiguousarray(np.concatenate(halves, axis=1), dtype=np.float32)


def check_key(key: MemoryKey, *, text_dimension: int, pixel_dimension: int) -> None:
    check_embedding("text embedding", key.text_T, text_dimension)
    check_embedding("pixel embedding", key.pixel_P, pixel_dimension)


def check_embedding(name: str, embedding: np.ndarray, dimension: int) -> None:
    if embedding.dtype != np.float32 or embedding.shape != (dimension,):
        got = f"{embedding.dtype} of shape {embedding.shape}"
        raise ValueError(f"{name}: expected float32 of shape ({dimension},), got {got}")
    if not np.isfinite(embedding).all():
        place = int(np.flatnonzero(~np.isfinite(embedding))[0])
        raise ValueError(f"{name}: expected finite numbers, got {embedding[place]} at {place}")
    length = float(np.linalg.norm(embedding))
    if length != 0 and abs(length - 1) > UNIT_TOLERANCE:
        raise ValueError(f"{name}: expected length 1 (or all zeros), got length {length:.4g}")
