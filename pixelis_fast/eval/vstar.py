"""V* Bench: test_questions.jsonl and the pictures beside it, as craigwu/vstar_bench publishes them.

A line has image, text (question and options), label (a letter), category and question_id. A picture
may have a JSON of its own with the target's boxes as [x, y, width, height] in pixels: the evidence
that a zoom is judged by.
"""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from pixelis_fast.data.convert_views import in_units
from pixelis_fast.data.rows import Row, read_rows
from pixelis_fast.eval.benchmark_types import Benchmark, Item
from pixelis_fast.eval.choices import vstar_letter
from pixelis_fast.types import Box, Evidence

LETTERS = ("A", "B", "C", "D")


def load(folder: Path, _: Path) -> list[Item]:
    return [_item(row, folder) for row in read_rows(folder, "test_questions.jsonl")]


def _item(row: Row, folder: Path) -> Item:
    picture = row.file("image", folder / row.text("image"))
    return Item(
        id=row.text("question_id"),
        media=(picture,),
        question=row.text("text"),
        truths=(row.choice("label", LETTERS),),
        category=row.text("category"),
        evidence=tuple(Evidence("zoom", box=box) for box in target_boxes(picture)),
    )


def target_boxes(picture: Path) -> list[Box]:
    """In 0..1000; none where the picture has no JSON of its own."""
    notes = picture.with_suffix(".json")
    if not notes.is_file():
        return []
    with Image.open(picture) as image:
        width, height = image.size
    found = json.loads(notes.read_text(encoding="utf-8")).get("bbox", [])
    return [in_units((x, y, x + w, y + h), (width, height)) for x, y, w, h in found]


def score(item: Item, answer: str) -> float:
    return float(vstar_letter(answer) == item.truths[0])


VSTAR = Benchmark("vstar", load, score)
