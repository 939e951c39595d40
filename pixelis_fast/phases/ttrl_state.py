"""The learner's snapshots: written whole or not at all, and held against the settings asked for.

One for each version that was served, the newest `keep_snapshots` of them: what a killed learner
goes on from, and what it can be rolled back to after a restart.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixelis_fast.phases.ttrl_types import TtrlConfig
from pixelis_fast.snapshots import STATE, latest_snapshot, save_snapshot, snapshots

SNAPSHOTS = "snapshots"
State = dict[str, Any]


class StateFiles:
    """The snapshots in a run's folder, by the version that each serves.

    Example:
        files = StateFiles(config)
        files.save(state)
        bank, ema = files.banks("sft+ttrl-12")
    """

    def __init__(self, config: TtrlConfig) -> None:
        self._config, self._folder = config, Path(config.out) / SNAPSHOTS

    @cached_property
    def _places(self) -> dict[str, Path]:
        """Looked for late: a reader beside a writer would open what is just being removed."""
        return {version_in(path): path for path in snapshots(self._folder)}

    def versions(self) -> list[str]:
        """That have a snapshot, oldest first."""
        return sorted(self._places, key=lambda version: self._places[version].name)

    def save(self, state: State) -> None:
        """In the place of the same version's, if that is the newest, or behind the ones before.

        Either way a kill on the way leaves a whole one of before.
        """
        version, kept = state["versions"]["serving"], snapshots(self._folder)
        number = 0
        if kept:
            number = number_of(kept[-1]) + (self._places.get(version) != kept[-1])
        settings = json.dumps(self._config.run_settings())
        keep = self._config.keep_snapshots
        place = save_snapshot(self._folder, number, state | {"settings": settings}, keep=keep)
        whole = {path.name for path in snapshots(self._folder)}
        places = self._places | {version: place}
        self._places = {name: path for name, path in places.items() if path.name in whole}

    def banks(self, version: str) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Numbers of the version's bank and of its average, as `Updater.state` gives them."""
        updater = opened(self._places[version])["updater"]
        return updater["bank"], updater["ema"]


def load_state(config: TtrlConfig) -> State | None:
    """The newest, or None in a fresh folder; ValueError where that run had other settings."""
    state = latest_snapshot(Path(config.out) / SNAPSHOTS)
    if state is not None:
        check_settings(json.loads(state["settings"]), config)
    return state


def check_settings(found: dict[str, Any], config: TtrlConfig) -> None:
    """ValueError where a run that has begun had others."""
    wanted = json.loads(json.dumps(config.run_settings()))
    if different := sorted(key for key in wanted if found.get(key) != wanted[key]):
        raise ValueError(
            f"resume: expected the settings of the run in {config.out}, got another "
            f"{', '.join(different)}; choose another folder for a new run"
        )


def opened(place: Path) -> State:
    """Mapped: only what is looked at is read."""
    return torch.load(place / STATE, map_location="cpu", weights_only=True, mmap=True)


def version_in(place: Path) -> str:
    return opened(place)["versions"]["serving"]


def number_of(place: Path) -> int:
    return int(place.name.removeprefix("step-"))
