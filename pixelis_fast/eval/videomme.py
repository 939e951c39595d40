"""Video-MME without subtitles: its rows, flat or nested by video, and data/<videoID>.mp4."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pixelis_fast.data.rows import Row, checked_row, read_rows
from pixelis_fast.eval.benchmark_types import Benchmark, Item
from pixelis_fast.eval.choices import video_mme_letter

FILES = ("test.jsonl", "videomme.json", "test-00000-of-00001.parquet")
VIDEO_FOLDERS = ("data", "videos", "video", "")
SUFFIXES = (".mp4", ".MP4", ".mkv")
LETTERS = ("A", "B", "C", "D")
DURATIONS = ("short", "medium", "long")
ASK = (
    "Select the best answer to the following multiple-choice question based on the video. "
    "Respond with only the letter (A, B, C, or D) of the correct option."
)


def load(folder: Path, _: Path) -> list[Item]:
    rows = (each for row in read_rows(folder, *FILES) for each in _questions(row))
    return [_item(row, folder) for row in rows]


def _questions(row: Row) -> Iterator[Row]:
    """The release's submission template has a video's questions in a list."""
    questions = row.values.get("questions")
    if questions is None:
        yield row
        return
    if not isinstance(questions, list):
        raise row.error("questions", "a list", questions)
    for number, question in enumerate(questions):
        inner = checked_row(f"{row.where}: questions[{number}]", question)
        yield Row(inner.where, {**row.values, **inner.values})


def _item(row: Row, folder: Path) -> Item:
    # The template names videos by their number alone.
    name = row.text("videoID" if "videoID" in row.values else "video_id")
    places = [folder / each / (name + suffix) for each in VIDEO_FOLDERS for suffix in SUFFIXES]
    lines = (ASK, row.text("question"), *row.texts("options"), "The best answer is:")
    return Item(
        id=row.text("question_id"),
        media=(row.file("videoID", *places),),
        question="\n".join(lines),
        truths=(row.choice("answer", LETTERS),),
        category=row.choice("duration", DURATIONS),
    )


def score(item: Item, answer: str) -> float:
    return float(video_mme_letter(answer) == item.truths[0])


VIDEO_MME = Benchmark("videomme", load, score)
