"""Trains and measures every arm for every seed; what is done is found again.

Each arm has a folder with its run and, once measured, row.json. An arm is made of the one it builds
on, which is made first. Killed and started again, the whole
goes on where it stopped, but for test-time learning, whose stream begins anew.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import track

from pixelis_fast.data.pixelworld import PixelWorldConfig
from pixelis_fast.data.prepare import PrepareConfig, prepare
from pixelis_fast.data.shift import ShiftConfig
from pixelis_fast.phases import rft, sft
from pixelis_fast.phases.sft_loss import LossConfig
from pixelis_fast.phases.ttrl import learn_from
from pixelis_fast.reproduce.budget import Budget
from pixelis_fast.reproduce.measure import (
    WORLD_SEED,
    agent_for,
    measure,
    questions_of_test,
)
from pixelis_fast.reproduce.recipes import (
    REWARDS,
    UNIFORM,
    chains_config,
    direct_config,
    grounding_config,
    rft_config,
    ttrl_config,
)
from pixelis_fast.reproduce.stream import learned, stream

ROW, MADE = "row.json", "made.json"
ABLATIONS = {
    "without KL to EMA": "safety",
    "answer majority only": "vote",
    "without retrieval": "retrieval",
}


@dataclass(frozen=True)
class ArmTask:
    """One row of the table for one seed."""

    name: str
    run: Callable[[], dict[str, Any]]


class Reproduction:
    """All arms under one budget.

    Example:
        rows = Reproduction(Path("runs/reproduce"), BUDGETS["cpu"]).run()
    """

    def __init__(self, out: Path, budget: Budget) -> None:
        self.out, self.budget = out, budget
        out.mkdir(parents=True, exist_ok=True)
        self._claim()

    def run(self, *, on_row: Callable[[dict[str, Any]], None] = lambda row: None) -> list[dict]:
        """Every row: {"arm", "seed", columns …}."""
        rows = []
        for seed in self.budget.seeds:
            for task in self.tasks(seed):
                rows.append(self._row(task, seed))
                on_row(rows[-1])
        return rows

    def tasks(self, seed: int) -> Iterator[ArmTask]:
        yield ArmTask("no tools", partial(self._no_tools, seed))
        yield ArmTask("sft", partial(self._sft, seed))
        yield ArmTask("sft, uniform weights, no heads", partial(self._uniform_sft, seed))
        for arm in REWARDS:
            yield ArmTask(arm, partial(self._rft, seed, arm))
        yield ArmTask("ttrl in domain", partial(self._ttrl, seed, "ttrl in domain", None))
        for kind in self.budget.shifts:
            shift = ShiftConfig(kind, self.budget.severity)
            yield ArmTask(f"frozen, {kind}", partial(self._frozen, seed, shift))
            yield ArmTask(f"ttrl, {kind}", partial(self._ttrl, seed, f"ttrl, {kind}", shift))
        hardest = ShiftConfig(self.budget.shifts[0], self.budget.severity)
        for name, without in ABLATIONS.items():
            arm = f"ttrl, {hardest.kind}, {name}"
            yield ArmTask(arm, partial(self._ttrl, seed, arm, hardest, without))

    def _row(self, task: ArmTask, seed: int) -> dict[str, Any]:
        path = self._folder(seed, task.name) / ROW
        if not path.is_file():
            found = {"arm": task.name, "seed": seed} | task.run()
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(".draft")
            draft.write_text(json.dumps(found, indent=1))
            draft.replace(path)
        return json.loads(path.read_text())

    def _no_tools(self, seed: int) -> dict[str, Any]:
        self._prepare("direct")
        out = self._folder(seed, "no tools")
        ground = self._grounded(seed, LossConfig())
        config = direct_config(self._data, ground, out, self.budget, seed=seed)
        return self._measured(once(out, lambda: sft.main(config)), seed, tools=False)

    def _sft(self, seed: int) -> dict[str, Any]:
        return self._measured(self._sft_policy(seed), seed)

    def _uniform_sft(self, seed: int) -> dict[str, Any]:
        policy = self._chains(seed, "sft, uniform weights, no heads", UNIFORM)
        return self._measured(policy, seed)

    def _rft(self, seed: int, arm: str) -> dict[str, Any]:
        return self._measured(self._rft_policy(seed, arm), seed)

    def _frozen(self, seed: int, shift: ShiftConfig) -> dict[str, Any]:
        return self._measured(self._rft_policy(seed, "cc-rft"), seed, shift=shift)

    def _ttrl(
        self, seed: int, arm: str, shift: ShiftConfig | None, without: str = ""
    ) -> dict[str, Any]:
        """Learns from the stream, then answers the questions that all arms answer.

        A stream that was cut is learned anew: a row is of all its events.
        """
        out = self._folder(seed, arm)
        shutil.rmtree(out / "run", ignore_errors=True)
        policy = self._rft_policy(seed, "cc-rft")
        agent = agent_for(policy, threads=self.budget.threads, seed=seed)
        config = ttrl_config(out / "run", self.budget, seed=seed, without=without)
        queries, samples = self.budget.ttrl_queries, []

        def noted() -> Iterator[Any]:
            for sample in stream(
                agent, out / "media", queries, shift=shift, adversarial=shift is not None
            ):
                samples.append(sample)
                yield sample

        with agent.loop:
            learning = learn_from(agent, config, noted())
            events = list(track(learning, f"{arm}, learning", total=queries))
            asked = questions_of_test(self.budget.test, shift=shift)
            row = measure(agent, asked, out / "media", title=arm).to_json()
        found = learned(events, samples, corridor_high=config.corridor.high)
        return row | {"ttrl": asdict(found)}

    def _measured(
        self, policy: Path, seed: int, *, tools: bool = True, shift: ShiftConfig | None = None
    ) -> dict[str, Any]:
        agent = agent_for(policy, threads=self.budget.threads, seed=seed)
        asked = questions_of_test(self.budget.test, shift=shift)
        return measure(agent, asked, self.out / "media", tools=tools).to_json()

    def _grounded(self, seed: int, loss: LossConfig) -> Path:
        self._prepare("grounding")
        out = self._folder(seed, "grounding" if loss != UNIFORM else "grounding, uniform")
        config = grounding_config(self._data, out, self.budget, seed=seed, loss=loss)
        return once(out, lambda: sft.main(config))

    def _chains(self, seed: int, arm: str, loss: LossConfig) -> Path:
        self._prepare("whole")
        ground = self._grounded(seed, loss)
        out = self._folder(seed, arm)
        config = chains_config(self._data, ground, out, self.budget, seed=seed, loss=loss)
        return once(out, lambda: sft.main(config))

    def _sft_policy(self, seed: int) -> Path:
        return self._chains(seed, "sft", LossConfig())

    def _rft_policy(self, seed: int, arm: str) -> Path:
        start, out = self._sft_policy(seed), self._folder(seed, arm)
        return once(out, lambda: rft.main(rft_config(start, out, self.budget, seed=seed, arm=arm)))

    def _prepare(self, kind: str) -> None:
        """The examples of one kind; what is there already is found."""
        none = PrepareConfig(whole=0, grounding=0, seed=WORLD_SEED)
        config = {
            "whole": replace(none, whole=self.budget.whole),
            "grounding": replace(none, grounding=self.budget.grounding),
            "direct": replace(none, direct=self.budget.whole),
        }[kind]
        folder, world = self._data / kind, PixelWorldConfig(seed=WORLD_SEED)
        once(folder, lambda: prepare(folder, config, world))

    @property
    def _data(self) -> Path:
        return self.out / "data"

    def _folder(self, seed: int, arm: str) -> Path:
        return self.out / f"seed-{seed}" / arm.replace(", ", "-").replace(" ", "-")

    def _claim(self) -> None:
        """ValueError where the folder is of another budget."""
        path = self.out / "budget.json"
        wanted = json.loads(json.dumps(asdict(self.budget)))
        wanted.pop("threads")
        if path.is_file() and (found := json.loads(path.read_text())) != wanted:
            raise ValueError(f"{path}: expected the budget {wanted}, got {found}")
        path.write_text(json.dumps(wanted, indent=1))


def once(folder: Path, make: Callable[[], Path]) -> Path:
    """What `make` gave when it last ran to its end in this folder; else it runs."""
    note = folder / MADE
    if not note.is_file():
        made = make()
        note.write_text(json.dumps({"made": str(made.relative_to(folder))}))
    return folder / json.loads(note.read_text())["made"]
