"""Questions from a JSON-lines file: {"id": …, "media": ["path", …], "question": …} per line.

"answer" and "answer_kind" (exact without) are what the answer is held against, where known.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pixelis_fast.tools import ToolBox
from pixelis_fast.types import AnswerKind, Sample

EXACT = AnswerKind.EXACT.value
ANSWER_KINDS = [kind.value for kind in AnswerKind]


def read_samples(path: Path, tools: ToolBox) -> list[Sample]:
    """Stores every file named; media paths are relative to the file. Raises ValueError by line."""
    return list(iter_samples(path, tools))


def iter_samples(path: Path, tools: ToolBox) -> Iterator[Sample]:
    """The same, but for media, which are stored when their sample is asked for."""
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path}: expected at least one sample, got an empty file")
    rows = [_row(path, number, line) for number, line in enumerate(lines, start=1)]
    return (_sample(row, tools, folder=path.parent) for row in rows)


def forget_media(samples: Sequence[Sample], tools: ToolBox) -> None:
    """A store keeps what was added, and every crop of it, until it is told to forget."""
    for media_id in {media.id for sample in samples for media in sample.media}:
        if media_id in tools.store:
            tools.store.forget(media_id)


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{number}: expected a JSON object, got {error}") from error
    if not isinstance(row, dict) or not {"id", "media", "question"} <= row.keys():
        raise ValueError(f'{path}:{number}: expected keys "id", "media", "question", got {line}')
    if (kind := row.get("answer_kind", EXACT)) not in ANSWER_KINDS:
        raise ValueError(
            f"{path}:{number}: answer_kind: expected one of {ANSWER_KINDS}, got {kind!r}"
        )
    return row


def _sample(row: dict[str, Any], tools: ToolBox, *, folder: Path) -> Sample:
    media = tuple(tools.add_media(folder / name) for name in row["media"])
    kind = AnswerKind(row.get("answer_kind", EXACT))
    return Sample(str(row["id"]), media, row["question"], row.get("answer"), kind)
