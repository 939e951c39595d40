"""The memory's key of a query: what its words are, and what its media look like to the policy.

Text: word unigrams and bigrams hashed to signed places, no vocabulary and no weights. Pixels: the
policy's own vision tower (policy/embed.py). Words are those of `canonical`, so spelling that
makes no other answer makes no other question.

Shapes: T = text values, P = pixel values, F = frames.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from pixelis_fast.memory.config import TEXT_DIMENSION
from pixelis_fast.memory.key import HybridWeights, MemoryKey, hybrid_vector
from pixelis_fast.policy.embed import VisionEmbedder
from pixelis_fast.policy.limits import ImageLimits
from pixelis_fast.policy.model import Policy
from pixelis_fast.types import Media, MediaKind, Sample
from pixelis_fast.voting_answers import canonical

__all__ = ["HybridWeights", "KeyMaker", "MemoryKey", "hybrid_similarity", "text_embedding"]

FRAMES = 4
"""Of a video, evenly spread."""


class Pixels(Protocol):
    """Who has the pixels; a ToolBox is one."""

    def image(self, media_id: str) -> np.ndarray: ...

    def frames(self, media_id: str, numbers: Sequence[int]) -> list[np.ndarray]: ...


class KeyMaker:
    """Keys of samples under one policy.

    Example:
        keys = KeyMaker(agent.policy, agent.opened.limits.image, agent.tools)
        memory.nearest(keys(sample), k=8, tenant="lab")
    """

    def __init__(
        self, policy: Policy, limits: ImageLimits, pixels: Pixels, *, threads: int = 1
    ) -> None:
        self._embed = VisionEmbedder(policy, limits, threads=threads)
        self._pixels = pixels
        self.pixel_dimension = policy.config.text.hidden_size

    def __call__(self, sample: Sample) -> MemoryKey:
        """Several media count the same, each by the mean of its frames."""
        pixel_P = np.zeros(self.pixel_dimension, np.float32)
        for media in sample.media:
            pixel_P += normalised(self._embed(self._frames(media)).mean(axis=0))
        return MemoryKey(text_embedding(sample.question), normalised(pixel_P))

    def _frames(self, media: Media) -> np.ndarray:
        if media.kind is MediaKind.IMAGE:
            return self._pixels.image(media.id)[None]
        return np.stack(self._pixels.frames(media.id, spread_frames(media.num_frames)))


def spread_frames(num_frames: int) -> list[int]:
    """The middles of equal parts, each frame once."""
    middles = [int((part + 0.5) * num_frames / FRAMES) for part in range(FRAMES)]
    return sorted(set(middles))


def text_embedding(text: str, *, dimension: int = TEXT_DIMENSION) -> np.ndarray:
    """(T) float32 of length one; zeros where the text has no word."""
    words = canonical(text).split()
    found_T = np.zeros(dimension, np.float32)
    for gram in (*words, *map(" ".join, itertools.pairwise(words))):
        hashed = int.from_bytes(hashlib.blake2b(gram.encode(), digest_size=8).digest(), "little")
        found_T[(hashed >> 1) % dimension] += 1 if hashed & 1 else -1
    return normalised(found_T)


def normalised(vector_D: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vector_D)
    return vector_D / length if length else vector_D


def hybrid_similarity(one: MemoryKey, other: MemoryKey, weights: HybridWeights) -> float:
    """text · cos + pixel · cos: what the memory's index ranks by."""
    return float(hybrid_vector(one, weights) @ hybrid_vector(other, weights))
