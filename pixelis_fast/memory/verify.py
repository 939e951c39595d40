"""Everything read and held together: the file, the totals, the digests, the indexes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pixelis_fast.memory.config import MemoryConfig
from pixelis_fast.memory.index import TenantIndex
from pixelis_fast.memory.indexes import Indexes, stamp_of
from pixelis_fast.memory.rows import digest
from pixelis_fast.memory.truth import Truth


@dataclass(frozen=True)
class Verdict:
    """What a full check found.

    Example:
        memory.verify().problems == ()
    """

    experiences: int
    problems: tuple[str, ...]


def verify(truth: Truth, indexes: Indexes, config: MemoryConfig) -> Verdict:
    said = [text for (text,) in truth.rows("PRAGMA integrity_check")]
    problems = [f"file: {text}" for text in said if text != "ok"]
    count = 0
    for tenant in truth.tenants():
        found = _tenant_problems(truth, indexes, config, tenant)
        problems += [f"{tenant}: {problem}" for problem in found]
        count += truth.totals(tenant).count
    return Verdict(count, tuple(problems))


def _tenant_problems(
    truth: Truth, indexes: Indexes, config: MemoryConfig, tenant: str
) -> list[str]:
    vectors = truth.vectors_after(tenant, 0, (config.text_dimension, config.pixel_dimension))
    rows = zip(vectors.numbers_N.tolist(), vectors.texts_NT, vectors.pixels_NP, strict=True)
    digests = tuple(digest(number, text.tobytes(), pixel.tobytes()) for number, text, pixel in rows)
    [(size,)] = truth.rows(
        "SELECT coalesce(sum(bytes), 0) FROM experiences JOIN trajectories USING (number) "
        "WHERE tenant = ?",
        tenant,
    )
    totals = truth.totals(tenant)
    served, built = indexes.of(tenant), indexes.rebuilt(tenant)
    statements = {
        "digests differ from the embeddings": digests == vectors.digests,
        "bytes differ from the rows": size == totals.bytes,
        "rows differ from the totals": built.stamp == stamp_of(totals),
        "numbers of the index differ": bool(
            np.array_equal(np.sort(served.held_numbers()), np.sort(built.held_numbers()))
        ),
        "vectors of the index differ": _same_vectors(served, built),
    }
    return [problem for problem, holds in statements.items() if not holds]


def _same_vectors(served: TenantIndex, built: TenantIndex) -> bool:
    """Bit for bit, whatever the order in which they lie."""
    ordered = [index.held_vectors()[np.argsort(index.held_numbers())] for index in (served, built)]
    return ordered[0].shape == ordered[1].shape and bool(
        np.array_equal(ordered[0].view(np.int32), ordered[1].view(np.int32))
    )
