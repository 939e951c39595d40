"""InfographicVQA: the annotation JSON with answers and the folder of pictures; ANLS at 0.5."""

from __future__ import annotations

from pathlib import Path

from pixelis_fast.data.rows import Row, only_file, read_rows
from pixelis_fast.eval.benchmark_types import Benchmark, Item
from pixelis_fast.scoring import anls

PICTURE_FOLDERS = ("infographicsvqa_images", "infographicVQA_images", "images", "")
ASK = "Answer the question using a single word or phrase."


def load(folder: Path, _: Path) -> list[Item]:
    """infographicsVQA_val_v1.0_withQT.json or another of the release's names."""
    name = only_file(folder, "infographic*VQA_*.json")
    return [_item(row, folder) for row in read_rows(folder, name)]


def _item(row: Row, folder: Path) -> Item:
    name = row.text("image_local_name")
    return Item(
        id=row.text("questionId"),
        media=(row.file("image_local_name", *(folder / each / name for each in PICTURE_FOLDERS)),),
        question=f"{row.text('question')}\n{ASK}",
        truths=row.texts("answers"),
    )


def score(item: Item, answer: str) -> float:
    return anls(answer, item.truths)


INFO_VQA = Benchmark("infovqa", load, score)
