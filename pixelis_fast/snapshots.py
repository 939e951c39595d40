"""A run's state on disk: the newest whole snapshot is found again after a kill at any moment.

A snapshot is written beside its place, flushed, and renamed; the last few are kept.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch

NAME = re.compile(r"step-(\d{8})")
STATE = "state.pt"


def save_snapshot(folder: Path, step: int, state: dict[str, Any], *, keep: int = 2) -> Path:
    """Writes step-NNNNNNNN/state.pt; older ones than the last `keep` are removed."""
    place = folder / f"step-{step:08d}"
    draft = folder / f"draft-{step:08d}"
    shutil.rmtree(draft, ignore_errors=True)
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
        shutil.rmtree(old)
    return place


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
    return sorted(path for path in folder.iterdir() if NAME.fullmatch(path.name))
