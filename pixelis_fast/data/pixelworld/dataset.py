"""PixelWorld on disk: a folder with `tasks.jsonl`, the media it names and the settings behind it.

A line has what `pixelis rollout` reads (id, media, question, answer) and all that is true besides.
The file appears when it is complete.

pixelis world runs/world --count 21 && pixelis rollout runs/world/tasks.jsonl
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track

from pixelis_fast.data.pixelworld.config import PixelWorldConfig
from pixelis_fast.data.pixelworld.media import save_media
from pixelis_fast.data.pixelworld.task import Plan, PlannedTurn, Target, Task, WorldObject
from pixelis_fast.data.pixelworld.world import PixelWorld
from pixelis_fast.trace import evidence_from_json
from pixelis_fast.types import AnswerKind, Evidence, Media, Sample, ToolCall

TASKS, SETTINGS, MEDIA = "tasks.jsonl", "world.json", "media"


@dataclass(frozen=True)
class StoredTask:
    """A task whose pixels are in a file.

    Example:
        [stored, *_] = read_dataset(Path("data/train"))
        sample = sample_of(stored, tools.add_media(stored.media))
    """

    id: str
    family: str
    split: str
    difficulty: float
    question: str
    answer: str
    answer_kind: AnswerKind
    media: Path
    fps: float
    evidence: tuple[Evidence, ...]
    plans: tuple[Plan, ...]
    objects: tuple[WorldObject, ...]


def sample_of(task: Task | StoredTask, media: Media) -> Sample:
    """The task as a rollout takes it, its pixels stored as `media`."""
    return Sample(task.id, (media,), task.question, task.answer, task.answer_kind, task.evidence)


def write_dataset(config: PixelWorldConfig, split: str, count: int, folder: Path) -> Path:
    """Draws so many tasks of a split into a folder; the path of its JSON lines."""
    if count < 1:
        raise ValueError(f"count: expected at least 1, got {count}")
    if (folder / TASKS).exists():
        raise ValueError(f"folder: expected one without {TASKS}, got {folder}")
    (folder / MEDIA).mkdir(parents=True, exist_ok=True)
    settings = {"split": split, "count": count, **asdict(config)}
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")
    world = PixelWorld(config)
    numbers = track(range(count), description=f"drawing {split}")
    unfinished = folder / f"{TASKS}.part"
    with unfinished.open("w") as file:
        for number in numbers:
            task = world.task(split, number)
            name = f"{MEDIA}/{save_media(task, folder / MEDIA).name}"
            file.write(json.dumps(_row(task, name), default=_plain, separators=(",", ":")) + "\n")
    return unfinished.rename(folder / TASKS)


def read_dataset(folder: Path) -> list[StoredTask]:
    """Every task of a folder; ValueError names the line that cannot be read."""
    path = folder / TASKS
    if not path.is_file():
        raise ValueError(f"folder: expected one with {TASKS}, got {folder}")
    return list(_stored(path, path.read_text().splitlines()))


def _stored(path: Path, lines: Iterable[str]) -> Iterable[StoredTask]:
    for number, line in enumerate(lines, start=1):
        try:
            yield _from_row(json.loads(line), path.parent)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path}:{number}: expected a task, got {error!r}") from error


def _row(task: Task, media: str) -> dict[str, Any]:
    names = [name for name in task.__dataclass_fields__ if name not in ("frames", "plans")]
    fields = {name: getattr(task, name) for name in names}
    listed = {name: [asdict(each) for each in fields[name]] for name in ("evidence", "objects")}
    plans = [[asdict(turn) for turn in plan] for plan in task.plans]
    return {**fields, **listed, "media": [media], "plans": plans}


def _plain(value: object) -> Any:
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"JSON: expected plain values, got {value!r}")


def _from_row(row: dict[str, Any], folder: Path) -> StoredTask:
    return StoredTask(
        id=row["id"],
        family=row["family"],
        split=row["split"],
        difficulty=row["difficulty"],
        question=row["question"],
        answer=row["answer"],
        answer_kind=AnswerKind(row["answer_kind"]),
        media=folder / row["media"][0],
        fps=row["fps"],
        evidence=tuple(evidence_from_json(each) for each in row["evidence"]),
        plans=tuple(tuple(_turn(each) for each in plan) for plan in row["plans"]),
        objects=tuple(_thing(each) for each in row["objects"]),
    )


def _turn(row: dict[str, Any]) -> PlannedTurn:
    call, target = row["call"], row["target"]
    return PlannedTurn(
        row["thought"],
        ToolCall(call["operation"], call["arguments"]),
        Target(**{name: value and tuple(value) for name, value in target.items()}),
    )


def _thing(row: dict[str, Any]) -> WorldObject:
    return WorldObject(
        **{**row, "box": tuple(row["box"]), "span": row["span"] and tuple(row["span"])}
    )


def command(
    folder: Annotated[Path, typer.Argument(help="For tasks.jsonl and media.")],
    count: Annotated[int, typer.Option(help="Tasks; the seven families take turns.")] = 21,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    seed: Annotated[int, typer.Option(help="Of the world.")] = 0,
) -> None:
    """Draws PixelWorld's questions, pictures and videos: what `prepare` makes traces of."""
    path = write_dataset(PixelWorldConfig(seed=seed), split, count, folder)
    typer.echo(f"{count} questions; answer them with: pixelis rollout {path}")
