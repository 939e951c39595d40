"""The learner's snapshots: written whole or not at all, and held against the settings asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pixelis_fast.phases.ttrl_types import TtrlConfig
from pixelis_fast.snapshots import latest_snapshot, save_snapshot, snapshots

SNAPSHOTS = "snapshots"


def save_state(config: TtrlConfig, state: dict[str, Any]) -> None:
    """Behind the ones before, never in the place of one: a kill on the way leaves those whole."""
    folder = Path(config.out) / SNAPSHOTS
    kept = snapshots(folder)
    number = 1 + int(kept[-1].name.removeprefix("step-")) if kept else 0
    settings = json.dumps(config.run_settings())
    save_snapshot(folder, number, state | {"settings": settings}, keep=config.keep_snapshots)


def load_state(config: TtrlConfig) -> dict[str, Any] | None:
    """The newest, or None in a fresh folder; ValueError where that run had other settings."""
    state = latest_snapshot(Path(config.out) / SNAPSHOTS)
    if state is None:
        return None
    found = json.loads(state["settings"])
    wanted = json.loads(json.dumps(config.run_settings()))
    if different := sorted(key for key in wanted if found.get(key) != wanted[key]):
        raise ValueError(
            f"resume: expected the settings of the run in {config.out}, got another "
            f"{', '.join(different)}; choose another folder for a new run"
        )
    return state
