"""What a query came to, kept until all of it is stored: a kill costs no outcome and repeats none.

Snapshot, memory and log are three files, and none can change in one moment with another. So an
outcome is first written here, whole, and then stored in this order: snapshot, memory, log. Where a
kill fell between them, the next start stores the rest. An outcome whose snapshot is missing was
never reached: what it had published is gone, and its query is asked again.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pixelis_fast.audit import verify
from pixelis_fast.memory import Experience
from pixelis_fast.memory.rows import experience_from_text, experience_text
from pixelis_fast.phases.ttrl_types import TtrlEvent, TtrlStatus

AUDIT = "audit.jsonl"
JOURNAL = "outcome.json"
UNTAUGHT = frozenset({TtrlStatus.READ_ONLY, TtrlStatus.ABSTAINED, TtrlStatus.OVER_BUDGET})
"""Ends of a query that nothing was to be learned from."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A query's line of the log and what is remembered of it.

    Example:
        Entry(event.to_json(), experience, in_snapshot=True)
    """

    event: Row
    experience: Experience | None
    in_snapshot: bool
    """It changed what the learner is, and a snapshot is to hold that."""

    @property
    def query(self) -> int:
        return int(self.event["query"])


class Journal:
    """The newest outcome of a run.

    Example:
        journal.write(entry)
        journal.unfinished(past, num_saved=17)  # None, or what a kill left half stored
    """

    def __init__(self, out: Path) -> None:
        self._path = out / JOURNAL

    def write(self, entry: Entry) -> None:
        """In the place of the one before, on the disk when it returns."""
        given = entry.experience
        row = {
            "event": entry.event,
            "experience": None if given is None else experience_text(given),
            "in_snapshot": entry.in_snapshot,
        }
        draft = self._path.with_suffix(".draft")
        with draft.open("w") as file:
            json.dump(row, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def clear(self) -> None:
        """All of it is stored."""
        self._path.unlink()

    def unfinished(self, past: Past, *, num_saved: int) -> Entry | None:
        """`num_saved`: queries that the newest snapshot has behind it."""
        try:
            row = json.loads(self._path.read_text())
        except FileNotFoundError:
            return None
        text = row["experience"]
        experience = None if text is None else experience_from_text(text)
        found = Entry(row["event"], experience, row["in_snapshot"])
        is_reached = num_saved > found.query or not found.in_snapshot
        return found if is_reached and found.query >= past.num_queries else None


@dataclass
class Past:
    """What the log tells of the runs before; empty where there is none.

    Example:
        past_of(Path("runs/ttrl"), num_saved=0).num_queries  # 0 in a fresh folder
    """

    num_queries: int = 0
    """Behind the last one that was logged."""
    num_updates: int = 0
    """Numbers of updates that are taken: no version bears one twice."""
    lessons: Counter[str] = field(default_factory=Counter)
    """By tenant, of queries that the newest snapshot does not know of."""
    settings: Row | None = None
    """Those of the newest start."""
    base: str = ""

    def take(self, row: Row, *, num_saved: int) -> None:
        data = row["data"]
        if row["kind"] in ("start", "resume"):
            self.settings, self.base = data["settings"], data.get("base", "")
        if row["kind"] == "publish":
            self.num_updates = max(self.num_updates, data.get("number", 0))
        if row["kind"] == "query":
            self.take_query(data, num_saved=num_saved)

    def take_query(self, event: Row, *, num_saved: int) -> None:
        self.num_queries = max(self.num_queries, event["query"] + 1)
        self.num_updates = max(self.num_updates, event["update"].get("number", 0))
        if event["query"] >= num_saved and TtrlStatus(event["status"]) not in UNTAUGHT:
            self.lessons[event["tenant"]] += 1


def past_of(out: Path, *, num_saved: int) -> Past:
    """Of a verified log, or of none."""
    past, path = Past(), out / AUDIT
    if path.is_file():
        for row in whole_rows(path):
            past.take(row, num_saved=num_saved)
    return past


def events_of(out: Path) -> list[TtrlEvent]:
    """Every query's outcome, in order, of all the starts that a run took; without seconds."""
    rows = (row["data"] for row in whole_rows(out / AUDIT) if row["kind"] == "query")
    by_query = {row["query"]: row for row in rows}
    return [event_of(by_query[query]) for query in sorted(by_query)]


def event_of(row: Row) -> TtrlEvent:
    told = {"status": TtrlStatus(row["status"]), "answers": tuple(row.get("answers", ()))}
    return TtrlEvent(**row | told)


def whole_rows(path: Path) -> Iterator[Row]:
    """One at a time: a server's log grows for as long as it runs."""
    left = verify(path).num_bytes
    with path.open("rb") as file:
        for line in file:
            left -= len(line)
            if left < 0:
                return
            yield json.loads(line)
