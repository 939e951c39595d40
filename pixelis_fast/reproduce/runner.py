"""Trains and measures every arm for every seed; what is done is found again.

Each arm has a folder with its run and, once measured, row.json. An arm is made of the one it builds
on, which is made first. Killed and started again, the whole goes on where it stopped: data,
training, test-time learning, answers. Started again while it runs, it shares the work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import track

from pixelis_fast.agent import TRAINED_PRESETS, Agent
from pixelis_fast.data.pixelworld import PixelWorldConfig
from pixelis_fast.data.prepare import prepare
from pixelis_fast.data.prepared import cut_torn_line, whole_lines
from pixelis_fast.data.preparer import PrepareConfig
from pixelis_fast.data.shift import ShiftConfig
from pixelis_fast.eval.arm_run import write_whole
from pixelis_fast.phases import rft, sft
from pixelis_fast.phases.sft import SftConfig
from pixelis_fast.phases.sft_loss import LossConfig
from pixelis_fast.phases.ttrl import learn_from
from pixelis_fast.phases.ttrl_journal import events_of
from pixelis_fast.phases.ttrl_types import TtrlConfig
from pixelis_fast.reproduce.budget import Budget
from pixelis_fast.reproduce.half_way import save_half_way
from pixelis_fast.reproduce.measure import (
    ANSWERS,
    WORLD_SEED,
    agent_for,
    measure,
    questions_of_test,
)
from pixelis_fast.reproduce.recipes import (
    CHAIN_KINDS,
    CHAINS,
    REWARDS,
    SCRATCH,
    TEMPERATURE,
    UNIFORM,
    chains_config,
    direct_config,
    drills_config,
    further_config,
    grounding_config,
    rft_config,
    tower_config,
    ttrl_config,
)
from pixelis_fast.reproduce.rows import Row, RowFolder, once
from pixelis_fast.reproduce.stream import learned, stream
from pixelis_fast.types import Sample

LEARNED, SECONDS = "learned.json", "seconds.jsonl"
ABLATIONS = {
    "without KL to EMA": "safety",
    "answer majority only": "vote",
    "without retrieval": "retrieval",
}


@dataclass(frozen=True)
class ArmTask:
    """One row of the table for one seed."""

    name: str
    run: Callable[[], Row]


class Reproduction:
    """All arms under one budget.

    Example:
        rows = Reproduction(Path("runs/reproduce"), BUDGETS["cpu"]).run()
    """

    def __init__(self, out: Path, budget: Budget) -> None:
        self.out, self.budget = out, budget
        self.rows = RowFolder(out, budget)

    def run(
        self,
        *,
        arms: Collection[str] | None = None,
        on_row: Callable[[Row], None] = lambda row: None,
    ) -> list[Row]:
        """Every row: {"arm", "seed", columns …}; `on_row` gets each as it comes.

        Rows that another process makes are left to it, and waited for at the end. ValueError where
        the folder is of another budget.
        """
        self.rows.claim()
        left = [
            (seed, task)
            for seed in self.budget.seeds
            for task in self.tasks(seed)
            if arms is None or task.name in arms
        ]
        for wait in (False, True):
            for seed, task in left[:]:
                row = self.rows.row(task.name, seed, task.run, wait=wait)
                if row is not None:
                    left.remove((seed, task))
                    on_row(row)
        return self.collect(arms=arms)

    def collect(self, *, arms: Collection[str] | None = None) -> list[Row]:
        """The rows that are there already, and nothing made."""
        chosen = (name for name in self.arms() if arms is None or name in arms)
        return self.rows.found(chosen, self.budget.seeds)

    def collect_all(self) -> list[Row]:
        """Of every arm, and also of seeds that only another process makes."""
        return self.rows.found(self.arms(), self.rows.seeds())

    def arms(self) -> list[str]:
        """All that the budget has, in the table's order."""
        return [task.name for task in self.tasks(self.budget.seeds[0])]

    def tasks(self, seed: int) -> Iterator[ArmTask]:
        yield ArmTask("no tools", partial(self._no_tools, seed))
        yield ArmTask("sft", partial(self._sft, seed))
        if not self.budget.start:
            # What it lacks, a policy that is there already has learned with.
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

    def _no_tools(self, seed: int) -> Row:
        self._prepare("direct")
        out = self._folder(seed, "no tools")
        ground = self._grounded(seed)
        config = direct_config(self._data, ground, out, self.budget, seed=seed)
        policy = once(out, lambda: sft.main(config))
        return self._measured(policy, seed, "no tools", tools=False)

    def _sft(self, seed: int) -> Row:
        return self._tuned(self._sft_policy(seed), seed, "sft")

    def _uniform_sft(self, seed: int) -> Row:
        arm = "sft, uniform weights, no heads"
        return self._measured(self._chains(seed, arm, UNIFORM), seed, arm)

    def _rft(self, seed: int, arm: str) -> Row:
        return self._tuned(self._rft_policy(seed, arm), seed, arm)

    def _frozen(self, seed: int, shift: ShiftConfig) -> Row:
        policy = self._rft_policy(seed, "cc-rft")
        return self._measured(policy, seed, f"frozen, {shift.kind}", shift=shift)

    def _ttrl(self, seed: int, arm: str, shift: ShiftConfig | None, without: str = "") -> Row:
        """Learns from the stream, then answers the questions that all arms answer."""
        out = self._folder(seed, arm)
        agent = agent_for(self._rft_policy(seed, "cc-rft"), budget=self.budget, seed=seed)
        config = ttrl_config(out / "run", self.budget, seed=seed, without=without)
        with agent.loop:
            found = self._learned(agent, config, out, shift)
            asked = questions_of_test(self.budget.test, shift=shift)
            row = measure(agent, asked, out, title=arm).to_json()
        return row | {"ttrl": found}

    def _learned(
        self, agent: Agent, config: TtrlConfig, out: Path, shift: ShiftConfig | None
    ) -> dict[str, Any]:
        """What the stream came to; the agent serves what was learned.

        A stream that was cut goes on; a row is of all its events, which the learner's log has.
        """
        note = out / LEARNED
        if note.is_file():
            # Without a sample nothing is learned: the newest snapshot is served again.
            list(learn_from(agent, config, ()))
            return json.loads(note.read_text())
        out.mkdir(parents=True, exist_ok=True)
        (out / ANSWERS).unlink(missing_ok=True)
        cut_torn_line(out / SECONDS)
        queries, samples = self.budget.ttrl_queries, list[Sample]()

        def noted() -> Iterator[Sample]:
            for sample in stream(
                agent, out / "media", queries, shift=shift, adversarial=shift is not None
            ):
                samples.append(sample)
                yield sample

        learning = learn_from(agent, config, noted())
        with (out / SECONDS).open("a") as file:
            for event in track(learning, f"{out.name}, learning", total=queries):
                file.write(json.dumps(event.seconds) + "\n")
                file.flush()
        found = learned(
            events_of(Path(config.out)),
            samples,
            corridor=config.corridor,
            seconds=whole_lines(out / SECONDS),
        )
        write_whole(note, json.dumps(asdict(found), indent=1))
        return asdict(found)

    def _measured(
        self,
        policy: Path,
        seed: int,
        arm: str,
        *,
        tools: bool = True,
        shift: ShiftConfig | None = None,
    ) -> Row:
        agent = agent_for(policy, budget=self.budget, seed=seed)
        asked = questions_of_test(self.budget.test, shift=shift)
        folder = self._folder(seed, arm)
        return measure(agent, asked, folder, tools=tools, title=arm).to_json()

    def _tuned(self, policy: Path, seed: int, arm: str) -> Row:
        """Of what reinforcement begins or ends with: also the draws that it is about."""
        agent = agent_for(policy, budget=self.budget, seed=seed, temperature=TEMPERATURE)
        asked, folder = questions_of_test(self.budget.test), self._folder(seed, arm) / "drawn"
        drawn = measure(agent, asked, folder, title=f"{arm}, drawn")
        return self._measured(policy, seed, arm) | {"drawn": drawn.to_json()}

    def _tower(self, seed: int) -> Path:
        self._prepare("grounding")
        self._prepare("close")
        out = self._folder(seed, "tower")
        config = tower_config(self._data, out, self.budget, seed=seed)
        return once(out, lambda: sft.main(config))

    def _grounded(self, seed: int, *, plain: bool = False) -> Path:
        """Without heads there is nothing to teach a tower of its own: it starts with the rest."""
        if self._start:
            return self._start
        self._prepare("grounding")
        self._prepare("close")
        loss = UNIFORM if plain else LossConfig()
        start = SCRATCH if plain else str(self._tower(seed))
        out = self._folder(seed, "grounding, uniform" if plain else "grounding")
        config = grounding_config(self._data, start, out, self.budget, seed=seed, loss=loss)
        return once(out, lambda: sft.main(config))

    def _chains(self, seed: int, arm: str, loss: LossConfig) -> Path:
        """Chains, drills alone, and chains again from half-way between both."""
        ground = self._grounded(seed, plain=loss == UNIFORM)
        for kind in CHAIN_KINDS:
            self._prepare(kind)
        trained = partial(self._trained, seed, loss)
        chains = trained(f"{arm}, first chains", chains_config, ground)
        drilled = trained(f"{arm}, drills", drills_config, chains)
        out = self._folder(seed, f"{arm}, half-way")
        start = once(out, lambda: save_half_way(chains, drilled, out / sft.POLICY))
        return trained(arm, further_config, start)

    def _trained(
        self,
        seed: int,
        loss: LossConfig,
        name: str,
        configure: Callable[..., SftConfig],
        start: Path,
    ) -> Path:
        out = self._folder(seed, name)
        config = configure(self._data, start, out, self.budget, seed=seed, loss=loss)
        return once(out, lambda: sft.main(config))

    def _sft_policy(self, seed: int) -> Path:
        """A policy that is there already has been through all of it: 300 steps more, at a quarter
        of the rate that taught it, took the one that ships from 73 % of test to 55 %."""
        return self._start or self._chains(seed, "sft", CHAINS)

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
            "close": replace(none, close=self.budget.close),
            "retold": replace(none, retold=self.budget.whole),
            "drills": replace(none, drills=self.budget.whole),
        }[kind]
        folder, world = self._data / kind, PixelWorldConfig(seed=WORLD_SEED)
        once(folder, lambda: prepare(folder, config, world))

    @property
    def _start(self) -> Path | None:
        start = self.budget.start
        return Path(TRAINED_PRESETS.get(start, start)) if start else None

    @property
    def _data(self) -> Path:
        return self.out / "data"

    def _folder(self, seed: int, arm: str) -> Path:
        return self.rows.folder(seed, arm)
