"""Rows of other people's files, checked as they are read: an error names file, row and field."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LONGEST_CELL = 1 << 28
"""Pictures stand in TSV cells as base64."""


class RowError(ValueError):
    """A file or folder that is not in the format it should have; says where."""


@dataclass(frozen=True)
class Row:
    """One object of a file.

    Example:
        row.text("question")   # RowError: "test.jsonl:3: question: expected text, got 7"
    """

    where: str
    """File and line, or file and item."""
    values: dict[str, Any]

    def text(self, name: str) -> str:
        """Not empty; a whole number counts as its digits."""
        value = self._needed(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or not value.strip():
            raise self.error(name, "text", value)
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """One at least."""
        value = self._needed(name)
        if not isinstance(value, list) or not value or not all(isinstance(x, str) for x in value):
            raise self.error(name, "a list of texts", value)
        return tuple(value)

    def choice(self, name: str, allowed: tuple[str, ...]) -> str:
        value = self.text(name)
        if value not in allowed:
            raise self.error(name, f"one of {', '.join(allowed)}", value)
        return value

    def number(self, name: str) -> float:
        value = self._needed(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(name, "a number", value)
        return float(value)

    def error(self, name: str, expected: str, value: Any) -> RowError:
        shown = repr(value)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        return RowError(f"{self.where}: {name}: expected {expected}, got {shown}")

    def file(self, name: str, *places: Path) -> Path:
        """The first of these paths that is there; `name` is the field that names it."""
        for place in places:
            if place.exists():
                return place
        tried = " or ".join(map(str, places))
        raise RowError(f"{self.where}: {name}: expected the file {tried}, found none")

    def _needed(self, name: str) -> Any:
        if self.values.get(name) is None:
            raise self.error(name, "a value", None)
        return self.values[name]


def read_rows(folder: Path, *names: str) -> list[Row]:
    """Of the first of these files that the folder has: .jsonl, .json, .tsv or .parquet."""
    for name in names:
        if (folder / name).is_file():
            rows = list(read_file(folder / name))
            if not rows:
                raise RowError(f"{folder / name}: expected at least one row, got none")
            return rows
    raise RowError(f"{folder}: expected {' or '.join(names)}, found none")


def only_file(folder: Path, pattern: str) -> str:
    """The name of the one file that fits; RowError where none or several do."""
    names = sorted(path.name for path in folder.glob(pattern))
    if len(names) != 1:
        raise RowError(f"{folder}: expected one {pattern}, found {', '.join(names) or 'none'}")
    return names[0]


def read_json_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                where = f"{path}:{number}"
                yield checked_row(where, parsed(where, line))


def read_json(path: Path) -> Iterator[Row]:
    """A list of objects, or such a list under "data"."""
    content = parsed(str(path), path.read_text(encoding="utf-8"))
    if isinstance(content, dict):
        content = content.get("data")
    if not isinstance(content, list):
        raise RowError(f'{path}: expected a list, or one under "data", got neither')
    for number, item in enumerate(content):
        yield checked_row(f"{path}: item {number}", item)


def read_tsv(path: Path) -> Iterator[Row]:
    limit = csv.field_size_limit(LONGEST_CELL)
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines, delimiter="\t")
            for values in reader:
                given = {key: value for key, value in values.items() if value not in ("", None)}
                yield Row(f"{path}:{reader.line_num}", given)
    finally:
        csv.field_size_limit(limit)


def read_parquet(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise RowError(
            f"{path}: expected the package pyarrow to read it, found none; pip install pyarrow, "
            "or give the same rows as JSON lines"
        ) from error
    number = 0
    for batch in parquet.ParquetFile(path).iter_batches(batch_size=64):
        for values in batch.to_pylist():
            yield Row(f"{path}: row {number}", values)
            number += 1


def parsed(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise RowError(f"{where}: expected JSON, got {error}") from error


def checked_row(where: str, values: Any) -> Row:
    if not isinstance(values, dict):
        raise RowError(f"{where}: expected an object, got {values!r}")
    return Row(where, values)


def read_file(path: Path) -> Iterator[Row]:
    """By the name's ending: .jsonl, .json, .tsv or .parquet."""
    if path.suffix not in READERS:
        raise RowError(f"{path}: expected a name that ends in one of {', '.join(READERS)}")
    return READERS[path.suffix](path)


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": read_json_lines,
    ".json": read_json,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
}
