"""The public benchmarks by name, and their items as samples.

Each reads a local folder in the format of its own release and scores as its own evaluation does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pixelis_fast.eval.benchmark_types import Benchmark, Item, check_ids
from pixelis_fast.eval.infovqa import INFO_VQA
from pixelis_fast.eval.mmstar import MMSTAR
from pixelis_fast.eval.mvbench import MVBENCH
from pixelis_fast.eval.videomme import VIDEO_MME
from pixelis_fast.eval.vsibench import VSI_BENCH
from pixelis_fast.eval.vstar import VSTAR
from pixelis_fast.tools import ToolBox
from pixelis_fast.types import Sample

BENCHMARKS = {each.name: each for each in (VSTAR, MVBENCH, VSI_BENCH, INFO_VQA, VIDEO_MME, MMSTAR)}


def benchmark(name: str) -> Benchmark:
    if name not in BENCHMARKS:
        raise ValueError(f"benchmark: expected one of {', '.join(BENCHMARKS)}, got {name}")
    return BENCHMARKS[name]


def load_items(name: str, folder: Path, *, cache: Path) -> list[Item]:
    """Every item of a benchmark's folder; `cache` gets the pictures and clips that must be made."""
    if not folder.is_dir():
        raise ValueError(f"folder: expected the folder of {name}, got {folder}")
    items = benchmark(name).load(folder, cache / name)
    check_ids(items, folder)
    return items


def to_sample(item: Item, tools: ToolBox) -> Sample:
    """The item with its media in the tools' store; its truths stay with it and its scorer."""
    media = tuple(tools.add_media(path) for path in item.media)
    return Sample(item.id, media, item.question, evidence=item.evidence)


def summary(name: str, items: Sequence[Item], scores: Sequence[float]) -> dict[str, float]:
    return benchmark(name).summary(items, scores)
