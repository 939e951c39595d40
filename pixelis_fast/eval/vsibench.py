"""VSI-Bench: test.jsonl (or its parquet) and <dataset>/<scene_name>.mp4, as nyu-visionx publishes.

Choices are right or wrong by their letter; numbers score the mean relative accuracy: the share of
ten confidence levels 0.50, 0.55 … 0.95 whose relative error 1 - level the answer keeps within. The
overall score is the mean over tasks, the three difficulties of relative direction being one task.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pixelis_fast.data.rows import Row, read_rows
from pixelis_fast.eval.benchmark_types import Benchmark, Item, mean_by_category
from pixelis_fast.eval.choices import first_word

CHOICE_TASKS = (
    "object_rel_direction_easy",
    "object_rel_direction_medium",
    "object_rel_direction_hard",
    "object_rel_distance",
    "route_planning",
    "obj_appearance_order",
)
NUMBER_TASKS = (
    "object_abs_distance",
    "object_counting",
    "object_size_estimation",
    "room_size_estimation",
)
DIRECTION = "object_rel_direction"
LEVELS = np.linspace(0.5, 0.95, 10)
ROUNDING = 1e-9
FRAMES = "These are frames of a video."
ASK_LETTER = "Answer with the option's letter from the given choices directly."
ASK_WORD = "Please answer the question using a single word or phrase."


def load(folder: Path, _: Path) -> list[Item]:
    names = ("test.jsonl", "test.json", "test-00000-of-00001.parquet")
    return [_item(row, folder) for row in read_rows(folder, *names)]


def _item(row: Row, folder: Path) -> Item:
    task = row.choice("question_type", CHOICE_TASKS + NUMBER_TASKS)
    scene = Path(row.text("dataset")) / f"{row.text('scene_name')}.mp4"
    truth = row.text("ground_truth")
    if task in NUMBER_TASKS and not to_number(truth):
        raise row.error("ground_truth", "a number other than 0", truth)
    return Item(
        id=row.text("id"),
        media=(row.file("scene_name", folder / scene),),
        question=_question(row, task),
        truths=(truth,),
        category=task,
    )


def _question(row: Row, task: str) -> str:
    question = row.text("question")
    if task in NUMBER_TASKS:
        return "\n".join((FRAMES, question, ASK_WORD))
    return "\n".join((FRAMES, question, "Options:", *row.texts("options"), ASK_LETTER))


def score(item: Item, answer: str) -> float:
    given, truth = first_word(answer), item.truths[0]
    if item.category in CHOICE_TASKS:
        return float(given.lower() == truth.lower())
    number, true = to_number(given), to_number(truth)
    return 0.0 if number is None or not true else mean_relative_accuracy(number, true)


def mean_relative_accuracy(number: float, truth: float) -> float:
    error = abs(number - truth) / abs(truth)
    return float(np.mean(error <= 1 - LEVELS + ROUNDING))


def to_number(text: str) -> float | None:
    """None for what is no finite number."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def summary(items: Sequence[Item], scores: Sequence[float]) -> dict[str, float]:
    tasks = mean_by_category(items, scores)
    del tasks["overall"]
    directions = [tasks.pop(task) for task in CHOICE_TASKS[:3] if task in tasks]
    if directions:
        tasks[DIRECTION] = float(np.mean(directions))
    return {"overall": float(np.mean(list(tasks.values()))), **tasks}


VSI_BENCH = Benchmark("vsibench", load, score, summary)
