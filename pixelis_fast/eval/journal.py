"""What a run has done so far: one JSON line per trajectory, so that it goes on after a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pixelis_fast.trace import trajectory_from_json
from pixelis_fast.types import RolloutStatus, Trajectory

FAILURES = (RolloutStatus.FAILED, RolloutStatus.CANCELLED)
"""A limit of time is not among them: whoever evaluates has set it."""


@dataclass(frozen=True)
class Entry:
    """One answered question.

    Example:
        Entry("17", seed=0, score=1.0, trajectory=trajectory)
    """

    case: str
    seed: int
    score: float
    trajectory: Trajectory

    @property
    def is_answered(self) -> bool:
        """False where the machine failed, and not the policy: worth asking again."""
        return self.trajectory.status not in FAILURES


class Journal:
    """An arm's entries on disk; a line that a kill tore off is dropped when it is opened.

    Example:
        journal = Journal(Path("runs/eval/ours/answers.jsonl"))
        journal.add([entry])
        journal.entries()
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)

    def add(self, entries: Sequence[Entry]) -> None:
        """On disk when it returns."""
        lines = [json.dumps(asdict(each), allow_nan=False, default=_value) for each in entries]
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())

    def entries(self) -> list[Entry]:
        """Of each question and seed the last one: what failed may have been asked again."""
        with self._path.open(encoding="utf-8") as lines:
            found = [self._entry(number, line) for number, line in enumerate(lines, start=1)]
        return list({(each.case, each.seed): each for each in found}.values())

    def _entry(self, number: int, line: str) -> Entry:
        try:
            row: dict[str, Any] = json.loads(line)
            trajectory = trajectory_from_json(row["trajectory"])
            return Entry(row["case"], row["seed"], row["score"], trajectory)
        except (json.JSONDecodeError, KeyError) as error:
            raise ValueError(f"{self._path}:{number}: expected an entry, got {error!r}") from error


def _value(member: Any) -> Any:
    return member.value
