"""What was learned from earlier queries, kept on disk and found by similarity.

Example:
    with ExperienceMemory(folder, MemoryConfig(pixel_dimension=256)) as memory:
        memory.add(experience)
        memory.nearest(key, k=8, tenant="lab")
"""

from pixelis_fast.memory.config import MemoryConfig, Worth
from pixelis_fast.memory.errors import (
    MemoryDamagedError,
    MemoryLockedError,
    MemoryStoreError,
    MemoryWriteError,
)
from pixelis_fast.memory.experience import (
    Evicted,
    Experience,
    Neighbour,
    Outcome,
    Provenance,
    Source,
)
from pixelis_fast.memory.key import HybridWeights, MemoryKey
from pixelis_fast.memory.store import ExperienceMemory
from pixelis_fast.memory.verify import Verdict

__all__ = [
    "Evicted",
    "Experience",
    "ExperienceMemory",
    "HybridWeights",
    "MemoryConfig",
    "MemoryDamagedError",
    "MemoryKey",
    "MemoryLockedError",
    "MemoryStoreError",
    "MemoryWriteError",
    "Neighbour",
    "Outcome",
    "Provenance",
    "Source",
    "Verdict",
    "Worth",
]
