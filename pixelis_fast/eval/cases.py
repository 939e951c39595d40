"""What a run asks: a public benchmark's items, a CoTA file's records, or a file of samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path

from pixelis_fast.data.cota import CotaRecord, read_records
from pixelis_fast.data.rows import read_json_lines
from pixelis_fast.eval.benchmark_types import (
    Benchmark,
    Item,
    Summary,
    check_ids,
    mean_by_category,
)
from pixelis_fast.eval.benchmarks import benchmark, load_items, to_sample
from pixelis_fast.scoring import answer_score
from pixelis_fast.tools import ToolBox
from pixelis_fast.types import Sample


@dataclass(frozen=True)
class Case:
    """One question; its media are loaded when an agent asks for the sample."""

    id: str
    category: str
    truth: str
    sample: Callable[[ToolBox], Sample]
    score: Callable[[str | None], float]


@dataclass(frozen=True)
class CaseSet:
    """All questions of a run, and how their scores are summed up.

    Example:
        cases = benchmark_cases("vstar", Path("vstar_bench"), cache=Path("runs/cache"))
        cases.summary([1.0, 0.0])   # {"overall": 0.5, …}
    """

    name: str
    cases: tuple[Case, ...]
    items: Sequence[Item]
    summarize: Summary

    def summary(
        self, scores: Sequence[float], places: Sequence[int] | None = None
    ) -> dict[str, float]:
        """Of a score per case; with `places` of the cases there, which may repeat."""
        if places is None:
            return self.summarize(self.items, scores)
        return self.summarize([self.items[i] for i in places], [scores[i] for i in places])


def benchmark_cases(name: str, folder: Path, *, cache: Path, limit: int | None = None) -> CaseSet:
    items = load_items(name, folder, cache=cache)[:limit]
    scorer = benchmark(name)
    cases = tuple(_benchmark_case(item, scorer) for item in items)
    return CaseSet(name, cases, items, scorer.summary)


def _benchmark_case(item: Item, scorer: Benchmark) -> Case:
    return Case(
        id=item.id,
        category=item.category,
        truth=" | ".join(item.truths),
        sample=partial(to_sample, item),
        score=partial(scorer.score, item),
    )


def file_cases(path: Path, *, limit: int | None = None) -> CaseSet:
    """A CoTA file, or plain lines of {"id", "media", "question", "answer"}."""
    if not path.is_file():
        raise ValueError(f"samples: expected a file, got {path}")
    records = list(islice(_records(path), limit))
    if not records:
        raise ValueError(f"{path}: expected at least one sample, got none")
    items = [Item(record.id, (), "", (), record.task) for record in records]
    check_ids(items, path)
    cases = tuple(_record_case(record, path.parent) for record in records)
    return CaseSet(path.stem, cases, items, mean_by_category)


def _records(path: Path) -> Iterator[CotaRecord]:
    """A record without a task is a plain sample, which has no chain either."""
    rows = read_json_lines(path)
    first = next(rows, None)
    if first is not None and "task" in first.values:
        yield from read_records(path)
        return
    for row in chain([first] if first else [], rows):
        media = row.texts("media")
        yield CotaRecord(row.text("id"), "", media, row.text("question"), row.text("answer"))


def _record_case(record: CotaRecord, folder: Path) -> Case:
    def sample(tools: ToolBox) -> Sample:
        media = tuple(tools.add_media(folder / name) for name in record.media)
        return record.sample(media)

    score = partial(answer_score, record.answer_kind, truth=record.answer)
    return Case(record.id, record.task, record.answer, sample, score)
