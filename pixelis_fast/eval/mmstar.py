"""MMStar and other choice questions in VLMEvalKit's TSV: pictures as base64, one question a row.

Columns: index, question, answer (a letter) and image or image_path; A, B, C … where the options are
not in the question already; category and l2_category. A short `image` names the row that holds the
picture.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from string import ascii_uppercase

from pixelis_fast.data.rows import Row, only_file, read_rows
from pixelis_fast.eval.benchmark_types import Benchmark, Item
from pixelis_fast.eval.choices import lettered, mmstar_agrees

SHORTEST_PICTURE = 64
"""Shorter cells are another row's index."""
ASK = "Please select the correct answer from the options above."


def load(folder: Path, cache: Path) -> list[Item]:
    rows = read_rows(folder, only_file(folder, "*.tsv"))
    cells = {row.text("index"): row.values.get("image", "") for row in rows}
    return [_item(row, folder, cache, cells) for row in rows]


def _item(row: Row, folder: Path, cache: Path, cells: dict[str, str]) -> Item:
    options = [row.values[letter] for letter in ascii_uppercase if letter in row.values]
    question = row.text("question")
    if options:
        question += f"\nOptions:\n{lettered(options, form='{letter}. {option}')}\n{ASK}"
    letters = tuple(ascii_uppercase[: len(options)] if options else ascii_uppercase)
    return Item(
        id=row.text("index"),
        media=(_picture(row, folder, cache, cells),),
        question=question,
        truths=(row.choice("answer", letters),),
        category=row.text("category"),
    )


def _picture(row: Row, folder: Path, cache: Path, cells: dict[str, str]) -> Path:
    if "image_path" in row.values:
        return row.file("image_path", folder / row.text("image_path"))
    cell = row.text("image")
    owner = row.text("index")
    if len(cell) < SHORTEST_PICTURE:
        owner, cell = cell, cells.get(cell, "")
    if len(cell) < SHORTEST_PICTURE:
        raise row.error("image", "base64 or the index of a row that has it", owner)
    return decoded(row, cell, cache / f"{owner}.img")


def decoded(row: Row, cell: str, path: Path) -> Path:
    """Written once; the media store tells the format from the bytes."""
    if not path.is_file():
        try:
            content = base64.b64decode(cell, validate=True)
        except binascii.Error as error:
            raise row.error("image", f"base64 ({error})", cell) from error
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return path


def score(item: Item, answer: str) -> float:
    return float(mmstar_agrees(answer, item.truths[0]))


MMSTAR = Benchmark("mmstar", load, score)
