"""One task of PixelWorld -> the examples of every kind that training draws from (prepare.py)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pixelis_fast.agent import AgentConfig, OpenPolicy, open_policy
from pixelis_fast.data.asked import asked
from pixelis_fast.data.cota import CotaTurn
from pixelis_fast.data.drills import Drills
from pixelis_fast.data.evident import is_evident
from pixelis_fast.data.labels import (
    WHOLE,
    cell_labels,
    shown_at,
)
from pixelis_fast.data.pixelworld.task import Task
from pixelis_fast.data.plans import (
    CLOSER_LOOKS,
    LOOKS,
    WEIGHED,
    closer,
    inside,
    looking_closer,
    placing,
    planned,
    plans_of,
    restated,
    restating,
    rounded,
    shaken,
    weighing,
)
from pixelis_fast.data.prepared import (
    Example,
)
from pixelis_fast.data.retold import FAMILIES, pieces_of, retold
from pixelis_fast.data.siblings import siblings
from pixelis_fast.data.traces import TraceBuilder
from pixelis_fast.data.traps import trapped
from pixelis_fast.prompt import PromptBuilder
from pixelis_fast.schemas import TOOL_SCHEMAS
from pixelis_fast.tools import ToolBox, ToolConfig, Workspace, open_tools
from pixelis_fast.types import Box, Media, Observation, Point, Sample, ToolCall, Trajectory
from pixelis_fast.views import Views

CLOSE = "-close-"
"""In the ids of samples whose picture is a crop."""
RETOLD = "-retold-"
"""In the ids of samples whose observations are not the tools'."""


@dataclass(frozen=True)
class PrepareConfig:
    """Example:
    PrepareConfig(split="train", whole=6000, grounding=6000)
    """

    split: str = "train"
    whole: int = 1000
    grounding: int = 1000
    direct: int = 0
    """Tasks with the bare answer and no call: what a policy without tools imitates."""
    seed: int = 0
    policy: str = "pixelworld-5m"
    """Whose tokenizer and pixel limits."""
    trap_share: float = 0.15
    asked_per_picture: int = 5
    """Grounding examples about things that no question is about, per picture."""
    close: int = 0
    """Tasks whose answer is also given to a crop that shows it."""
    close_per_picture: int = 3
    """Crops of one picture, each cut a little differently."""
    retold: int = 0
    """Tasks whose shortest chain is told again with other observations."""
    retold_per_task: int = 6
    drills: int = 0
    """Groups of exercises in numbers."""

    @property
    def num_drawn(self) -> int:
        """Tasks whose pictures are needed."""
        return max(self.whole, self.grounding, self.direct, self.close, self.retold)

    @property
    def num_tasks(self) -> int:
        return max(self.num_drawn, self.drills)


@dataclass(frozen=True)
class Chain:
    """A plan that was run, and what is thought before its answer."""

    turns: list[CotaTurn]
    thought: str
    trajectory: Trajectory


class Preparer:
    """Makes examples of tasks.

    Example:
        for example in Preparer(config).whole(task): ...
    """

    def __init__(self, config: PrepareConfig) -> None:
        self.config = config
        self.opened = opened_policy(config.policy)
        self.pieces = pieces_of(self.opened.tokenizer)
        self.tools: ToolBox = open_tools(ToolConfig())
        self.views = Views(self.tools, self.opened.limits)
        prompt = PromptBuilder(self.opened.tokenizer, TOOL_SCHEMAS)
        self.builder = TraceBuilder(
            self.opened.tokenizer, prompt=prompt, views=self.views, tools=self.tools
        )

    def whole(self, task: Task, media: Media) -> Example | None:
        """One chain with its answer; None where the tools did not show it."""
        chain = self.chain(task, media)
        if chain is None:
            return None
        imitated = (*(turn.is_imitated for turn in chain.turns), True)
        place = self.answer_place(task, chain.trajectory)
        difficulty = hardness(task, len(chain.turns))
        return Example(chain.trajectory, imitated, task.family, difficulty, place)

    def chain(self, task: Task, media: Media) -> Chain | None:
        """A plan of the task, run; None where its observations do not show the answer."""
        rng = np.random.default_rng((self.config.seed, 1, number_of(task)))
        # The shortest plan as often as all longer ones together.
        plans = plans_of(task)
        longer = len(plans) > 1 and rng.random() < 0.5
        plan = plans[rng.integers(1, len(plans)) if longer else 0]
        turns = planned(plan, self.views.tokens(media).timestamps_s)
        if rng.random() < self.config.trap_share:
            turns = trapped(turns, task, rng)
        chain = self.run(task, media, turns)
        if chain is None or task.family not in (*WEIGHED, "track"):
            return chain
        turns, thought = quoted(task, chain)
        return Chain(turns, thought, self.built(task, media, turns, thought))

    def run(self, task: Task, media: Media, turns: Sequence[CotaTurn]) -> Chain | None:
        """A plan's turns as a policy thinks them; None where they do not show the answer."""
        turns = restating(looking_closer(turns, task), task.question)
        thought = restated(task.question)
        trajectory = self.built(task, media, turns, thought)
        return Chain(turns, thought, trajectory) if is_evident(task, trajectory) else None

    def built(
        self, task: Task, media: Media, turns: Sequence[CotaTurn], thought: str
    ) -> Trajectory:
        sample = self.sample(task, media)
        return self.builder.build(sample, turns, answer=task.answer, thought=thought)

    def retold(self, task: Task, media: Media) -> Iterator[Example]:
        """The shortest chain with other observations; none where the real ones show no answer."""
        plan = plans_of(task)[0]
        if task.family not in FAMILIES:
            return
        chain = self.run(task, media, planned(plan, self.views.tokens(media).timestamps_s))
        if chain is None:
            return
        rng = np.random.default_rng((self.config.seed, 4, number_of(task)))
        said = [step.observation.text for step in chain.trajectory.steps if step.observation]
        for number in range(self.config.retold_per_task):
            told = retold(task, chain.turns, said, rng, pieces=self.pieces)
            sample = replace(
                self.sample(task, media),
                id=f"{task.id}{RETOLD}{number}",
                answer=told.answer or task.answer,
            )
            trajectory = self.builder.build(
                sample, told.turns, answer=told.answer, thought=told.thought
            )
            yield Example(trajectory, told.imitated, task.family, task.difficulty)

    def drills(self, number: int) -> Iterator[Example]:
        rng = np.random.default_rng((self.config.seed, 5, number))
        return Drills(self.builder, self.config.split, self.pieces).group(number, rng)

    def direct(self, task: Task, media: Media) -> Example:
        trajectory = self.builder.build(self.sample(task, media), [], answer=task.answer)
        return Example(trajectory, (True,), task.family, task.difficulty)

    def grounding(self, task: Task, media: Media) -> Iterator[Example]:
        """Single calls, not run: the task's own, then of other things in the picture."""
        rng = np.random.default_rng((self.config.seed, 2, number_of(task)))
        plans = plans_of(task)
        plan = plans[rng.integers(len(plans))]
        turns = planned(plan, self.views.tokens(media).timestamps_s)
        yield self._single(self.sample(task, media), turns[0], task)
        for question, turn in asked(task, rng, self.config.asked_per_picture):
            yield self._single(Sample(f"{task.id}-{question}", (media,), question), turn, task)

    def close(self, task: Task, media: Media) -> Iterator[tuple[Example, Box]]:
        """With what each crop shows: the call that a wide one wants, and the bare answer to a
        closer one; none where a plan of the task ends with something else than a look."""
        last = plans_of(task)[0][-1]
        if last.call.operation not in LOOKS or len(task.frames) > 1:
            return
        rng = np.random.default_rng((self.config.seed, 3, number_of(task)))
        for number in range(self.config.close_per_picture):
            workspace = Workspace((media,))
            first = ToolCall("zoom", {"media": 0, "box": last.call.arguments["box"]})
            [(crop, view)] = crops_of(self.tools.run(rounded(shaken(first, rng)), workspace))
            for look in range(CLOSER_LOOKS[last.call.operation]):
                sample = replace(self.sample(task, crop), id=f"{task.id}{CLOSE}{number}-wide{look}")
                yield self._single(sample, closer(last, view, task, media=0), task), view
                if last.call.operation == "zoom":
                    call = rounded(shaken(inside("zoom", view, task, media=look + 1), rng))
                    [(crop, view)] = crops_of(self.tools.run(call, workspace))
            if last.call.operation == "zoom":
                for place, one in enumerate(siblings(task)):
                    near = replace(self.sample(one, crop), id=f"{task.id}{CLOSE}{number}-{place}")
                    yield self._answered(near, one, view), view

    def _answered(self, sample: Sample, task: Task, view: Box) -> Example:
        trajectory = self.builder.build(sample, [], answer=task.answer)
        place = shown_at(task, view)
        return Example(trajectory, (True,), task.family, task.difficulty, place)

    def sample(self, task: Task, media: Media) -> Sample:
        return Sample(
            id=task.id,
            media=(media,),
            question=task.question,
            answer=task.answer,
            answer_kind=task.answer_kind,
            evidence=task.evidence,
        )

    def _single(self, sample: Sample, turn: CotaTurn, task: Task) -> Example:
        trajectory = self.builder.build(sample, [turn], answer=None)
        return Example(trajectory, (True,), task.family, task.difficulty)

    def labels(self, task: Task, media: Media, *, view: Box = WHOLE) -> np.ndarray | None:
        """(M, L + 8): what each visual token of a picture shows; None for a video."""
        if len(task.frames) > 1:
            return None
        merge = self.opened.limits.image.patch.merge_size
        _, height, width = self.views.grid_thw(media)
        return cell_labels(task, height // merge, width // merge, view=view)

    def answer_place(self, task: Task, trajectory: Trajectory) -> Point | None:
        """In the last crop, of an answer that is seen there."""
        observation = trajectory.steps[-2].observation
        views = [] if observation is None else crops_of(observation)
        return shown_at(task, views[-1][1]) if views else None

    def crop_labels(self, task: Task, trajectory: Trajectory) -> dict[str, np.ndarray]:
        """Of every crop that a chain looked at; none of a video's."""
        found = {
            media.id: self.labels(task, media, view=view)
            for step in trajectory.steps
            if step.observation is not None
            for media, view in crops_of(step.observation)
        }
        return {name: labels for name, labels in found.items() if labels is not None}


def quoted(task: Task, chain: Chain) -> tuple[list[CotaTurn], str]:
    """The turns and the answer's thought, with what they say again of the observations."""
    if task.family in WEIGHED:
        return weighing(chain.turns, chain.thought, task.question, chain.trajectory)
    return chain.turns, placing(task.question, chain.trajectory)


def hardness(task: Task, num_calls: int) -> float:
    """0..1: the task's own difficulty and the length of its chain, in halves."""
    return min((task.difficulty + num_calls / 6) / 2, 1.0)


def opened_policy(policy: str) -> OpenPolicy:
    return open_policy(AgentConfig(policy=policy, random_weights=not Path(policy).is_dir()))


def number_of(task: Task) -> int:
    return int(task.id.rsplit("-", 1)[-1])


def crops_of(observation: Observation) -> list[tuple[Media, Box]]:
    """A crop and the part of the picture that it shows."""
    view = json.loads(observation.text).get("view")
    return [] if view is None else [(media, tuple(view)) for media in observation.media]
