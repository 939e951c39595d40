"""A writer to be killed: goes on where the memory ends, says every add that returned.

    python -m bench.memory_worker FOLDER [--reopen-every N] [--keep N]

Prints "ready", then one line per add: its number and the log's size. Closes and opens the memory
now and then, so that a kill may also fall into those.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.memory_experiences import experience, small_config
from pixelis_fast.memory import ExperienceMemory, MemoryConfig
from pixelis_fast.memory.schema import FILE_NAME

TENANTS = ("lab", "shop")
KEEP = 40
"""Experiences per tenant, so that most adds of a long run evict."""


def worker_config(keep: int = KEEP) -> MemoryConfig:
    return small_config(max_experiences=keep, slack=0.1)


def tenant_of(number: int) -> str:
    return TENANTS[number % len(TENANTS)]


def stored_numbers(memory: ExperienceMemory) -> set[int]:
    """Every number that arrived, those that left again included."""
    found = {int(id_) for tenant in TENANTS for id_ in memory.ids(tenant)}
    return found | {int(each.id) for tenant in TENANTS for each in memory.evictions(tenant)}


def write(folder: Path, config: MemoryConfig, *, adds: int) -> None:
    with ExperienceMemory(folder, config) as memory:
        first = max(stored_numbers(memory), default=-1) + 1
        for number in range(first, first + adds):
            memory.add(experience(number, tenant=tenant_of(number)))
            log_bytes = (folder / f"{FILE_NAME}-wal").stat().st_size
            print(number, log_bytes, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--reopen-every", type=int, default=60)
    parser.add_argument("--keep", type=int, default=KEEP)
    options = parser.parse_args()
    print("ready", flush=True)
    while True:
        write(options.folder, worker_config(options.keep), adds=options.reopen_every)


if __name__ == "__main__":
    main()
