"""A run's state on disk: the newest whole snapshot is found again after a kill at any moment.

A snapshot is written beside its place, flushed, and renamed; the last few are kept. Who goes on
from one has the run's settings, and its log without the steps that are done again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch

NAME = re.compile(r"step-(\d{8})")
HALF = re.compile(r"(draft|gone-step|step)-\d{8}")
"""What a kill may leave beside whole ones."""
STATE = "state.pt"


def save_snapshot(folder: Path, step: int, state: dict[str, Any], *, keep: int = 2) -> Path:
    """Writes step-NNNNNNNN/state.pt; older ones than the last `keep` are removed."""
    place = folder / f"step-{step:08d}"
    draft = folder / f"draft-{step:08d}"
    sweep(folder)
    draft.mkdir(parents=True)
    with (draft / STATE).open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    if place.exists():
        # Into the old one's folder: a kill leaves one of the two, never neither.
        os.replace(draft / STATE, place / STATE)
        draft.rmdir()
    else:
        os.replace(draft, place)
    for old in snapshots(folder)[:-keep]:
        # Renamed first: a kill on the way leaves nothing half under a whole one's name.
        shutil.rmtree(old.rename(folder / f"gone-{old.name}"))
    return place


def sweep(folder: Path) -> None:
    """Removes what a kill left half written or half removed."""
    whole = snapshots(folder)
    for path in folder.iterdir() if folder.is_dir() else ():
        if HALF.fullmatch(path.name) and path not in whole:
            shutil.rmtree(path)


def latest_snapshot(folder: Path) -> dict[str, Any] | None:
    """The newest snapshot's state, or None in a fresh folder; weights and plain values only."""
    found = snapshots(folder)
    if not found:
        return None
    return torch.load(found[-1] / STATE, map_location="cpu", weights_only=True)


def snapshots(folder: Path) -> list[Path]:
    """Whole ones, oldest first."""
    if not folder.is_dir():
        return []
    named = sorted(path for path in folder.iterdir() if NAME.fullmatch(path.name))
    return [path for path in named if (path / STATE).is_file()]


def check_settings(found: dict[str, Any], wanted: dict[str, Any], out: Path) -> None:
    """ValueError where a run that goes on had others."""
    if different := sorted(key for key in wanted if found.get(key) != wanted[key]):
        raise ValueError(
            f"resume: expected the settings of the run in {out}, got another "
            f"{', '.join(different)}; choose another folder for a new run"
        )


def cut_log(path: Path, step: int) -> None:
    """Rows of steps that will be done again go; so does a torn last line."""
    if not path.is_file():
        return
    kept = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    kept = [line for line in kept if json.loads(line)["step"] <= step]
    draft = path.with_suffix(".draft")
    draft.write_text("".join(kept))
    draft.replace(path)
