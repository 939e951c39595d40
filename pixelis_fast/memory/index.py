"""One tenant's vectors in memory, served by faiss: exact inner products, ties by number.

A cache: it follows the truth's totals and says by a stamp which state it holds.

Shapes: N = experiences, D = hybrid dimension, K = neighbours.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pixelis_fast.memory.rows import CHECKSUM_MODULUS

try:
    import faiss
except ImportError as error:
    raise ImportError(
        "pixelis_fast.memory: expected faiss (pip install 'pixelis-fast[learn]')"
    ) from error

# Faiss splits queries among threads, and a search here has one: others would only wait for it.
faiss.omp_set_num_threads(1)
FAISS_VERSION = faiss.__version__

Found = tuple[int, float]
"""Number and similarity."""
FLOAT_BYTES, NUMBER_BYTES = 4, 8
TIE_ROOM = 8
"""Asked for beyond k: where the last of them ties with the k-th, more are asked for."""


@dataclass(frozen=True)
class Stamp:
    """Which state of the truth an index holds."""

    count: int = 0
    last_number: int = 0
    last_eviction: int = 0
    checksum: int = 0


class TenantIndex:
    """Exact nearest neighbours of one tenant.

    Example:
        index = TenantIndex(dimension=512)
        index.add(numbers_N, digests, vectors_ND)
        index.search(vector_D, k=8)
    """

    def __init__(self, dimension: int) -> None:
        self.dimension, self.stamp = dimension, Stamp()
        self._index: Any = faiss.IndexIDMap(faiss.IndexFlatIP(dimension))

    @property
    def nbytes(self) -> int:
        """Of vectors and numbers."""
        return self._index.ntotal * (self.dimension * FLOAT_BYTES + NUMBER_BYTES)

    def to_bytes(self) -> bytes:
        """The vectors and their numbers; the stamp is the caller's to keep."""
        return faiss.serialize_index(self._index).tobytes()

    @classmethod
    def from_bytes(cls, payload: bytes | memoryview, stamp: Stamp) -> TenantIndex:
        held: Any = faiss.deserialize_index(np.frombuffer(payload, np.uint8))
        index = cls(held.d)
        index._index, index.stamp = held, stamp
        return index

    def add(self, numbers_N: np.ndarray, digests: Sequence[int], vectors_ND: np.ndarray) -> None:
        if len(numbers_N) == 0:
            return
        self._index.add_with_ids(vectors_ND, numbers_N)
        old = self.stamp
        self.stamp = Stamp(
            old.count + len(numbers_N),
            max(old.last_number, int(numbers_N.max())),
            old.last_eviction,
            (old.checksum + sum(digests)) % CHECKSUM_MODULUS,
        )

    def remove(self, numbers: Sequence[int], digests: Sequence[int]) -> None:
        if not numbers:
            return
        self._index.remove_ids(_batch(numbers))
        old = self.stamp
        checksum = (old.checksum - sum(digests)) % CHECKSUM_MODULUS
        count = old.count - len(numbers)
        self.stamp = Stamp(count, old.last_number, old.last_eviction, checksum)

    def search(self, vector_D: np.ndarray, k: int, *, without: Collection[int] = ()) -> list[Found]:
        """The k most similar, best first, equal ones by number."""
        size, asked = self._index.ntotal, k + TIE_ROOM
        options = _leave_out(without)
        while True:
            similarity_1K, number_1K = self._index.search(
                vector_D[None], min(asked, max(size, 1)), params=options
            )
            pairs = zip(number_1K[0].tolist(), similarity_1K[0].tolist(), strict=True)
            found = [pair for pair in pairs if pair[0] >= 0]
            is_whole = len(found) < asked or found[-1][1] < found[k - 1][1]
            if is_whole or asked >= size:
                return sorted(found, key=lambda pair: (-pair[1], pair[0]))[:k]
            asked *= 4

    def held_numbers(self) -> np.ndarray:
        """(N), as they lie in the index."""
        return faiss.vector_to_array(self._index.id_map)

    def held_vectors(self) -> np.ndarray:
        """(N, D), a copy, in the order of `held_numbers`."""
        flat: Any = faiss.downcast_index(self._index.index)
        size = self._index.ntotal * self.dimension
        return faiss.rev_swig_ptr(flat.get_xb(), size).reshape(-1, self.dimension).copy()


def _leave_out(numbers: Collection[int]) -> faiss.SearchParameters | None:
    if not numbers:
        return None
    parameters: Any = faiss.SearchParameters  # its Python constructor is not in its types
    return parameters(sel=faiss.IDSelectorNot(_batch(numbers)))


def _batch(numbers: Collection[int]) -> faiss.IDSelectorBatch:
    return faiss.IDSelectorBatch(np.array(sorted(numbers), np.int64))
