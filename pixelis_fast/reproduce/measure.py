"""What a policy is worth on PixelWorld: the table's columns, from real rollouts with real tools."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.progress import track

from pixelis_fast.advantages import UNSCORED
from pixelis_fast.agent import Agent, AgentConfig, build_agent
from pixelis_fast.data.pixelworld import PixelWorld, PixelWorldConfig, save_media
from pixelis_fast.data.shift import ShiftConfig
from pixelis_fast.eval.arms import Answerer, Arm
from pixelis_fast.eval.journal import Entry, Journal
from pixelis_fast.eval.metrics import answer_scores, chain_metrics
from pixelis_fast.reproduce.budget import Budget
from pixelis_fast.rollout import RolloutConfig
from pixelis_fast.tools import ToolBox
from pixelis_fast.types import Sample, Trajectory

WORLD_SEED = 0
"""Every arm sees one world; seeds of arms are of weights, order and draws."""
LIMITS = RolloutConfig(max_steps=8, max_tokens=512, max_thought_tokens=40, embeddings=True)
BATCH = 8
"""Questions at once; what a kill loses."""
ANSWERS = "answers.jsonl"


@dataclass(frozen=True)
class Question:
    """One task of the world."""

    index: int
    split: str = "test"
    shift: ShiftConfig | None = None

    @property
    def name(self) -> str:
        return f"{self.split}-{self.index}"

    def sample(self, tools: ToolBox, folder: Path) -> Sample:
        """With its media in the tools' store."""
        world = PixelWorld(PixelWorldConfig(seed=WORLD_SEED, shift=self.shift))
        task = world.task(self.split, self.index)
        folder.mkdir(parents=True, exist_ok=True)
        path = save_media(task, folder)
        media = tools.add_media(path)
        path.unlink()
        return Sample(
            task.id, (media,), task.question, task.answer, task.answer_kind, task.evidence
        )


@dataclass(frozen=True)
class Measured:
    """One arm's columns for one seed."""

    accuracy: float
    visfid: float | None
    length: float
    validity: float | None
    rapr: float | None
    racpr: float | None
    latency_s: float
    """Median of a chain's own stages."""
    by_family: dict[str, float]
    count: int

    def to_json(self) -> dict:
        return asdict(self)


def agent_for(policy: Path, *, budget: Budget, seed: int, temperature: float = 0.0) -> Agent:
    sampling = replace(LIMITS.sampling, seed=seed, temperature=temperature)
    rollout = replace(LIMITS, sampling=sampling)
    return build_agent(
        AgentConfig(
            policy=str(policy), device=budget.device, threads=budget.threads, rollout=rollout
        )
    )


def measure(
    agent: Agent,
    questions: Sequence[Question],
    folder: Path,
    *,
    tools: bool = True,
    title: str = "measuring",
) -> Measured:
    """The agent's answers to all questions; without tools the grammar leaves only an answer.

    What the folder's journal has an answer to is not asked again.
    """
    answerer = Answerer(Arm(title, agent.config, tools=tools), agent)
    journal = Journal(folder / ANSWERS)
    done = {entry.case for entry in journal.entries() if is_told(entry)}
    todo = [question for question in questions if question.name not in done]
    for batch in track(list(batches(todo, BATCH)), title):
        journal.add(answered(answerer, batch, folder / "media"))
    entries = journal.entries()
    if untold := [entry for entry in entries if not is_told(entry)]:
        first = untold[0].trajectory
        raise RuntimeError(
            f"{folder}: {len(untold)} of {len(entries)} questions came to no end of their own; the "
            f"first: {first.status}, {first.error}. Start again to ask them again"
        )
    return measured([entry.trajectory for entry in entries])


def is_told(entry: Entry) -> bool:
    """A row is about a policy: what a machine broke off is asked again."""
    return entry.trajectory.status not in UNSCORED


def answered(answerer: Answerer, batch: Sequence[Question], folder: Path) -> list[Entry]:
    """A question's number is its index: it draws the same in any batch."""
    agent = answerer.agent
    samples = [question.sample(agent.tools, folder) for question in batch]
    numbers = [question.index for question in batch]
    trajectories = answerer.run(samples, numbers=numbers, seed=0)
    for sample in samples:
        agent.tools.store.forget(sample.media[0].id)
    scores = answer_scores(trajectories)
    return [
        Entry(question.name, 0, score, trajectory)
        for question, score, trajectory in zip(batch, scores, trajectories, strict=True)
    ]


def measured(trajectories: Sequence[Trajectory]) -> Measured:
    metrics = chain_metrics(trajectories)
    scores = defaultdict(list)
    for trajectory, score in zip(trajectories, answer_scores(trajectories), strict=True):
        scores[family_of(trajectory)].append(score)
    return Measured(
        accuracy=metrics.accuracy or 0.0,
        visfid=metrics.visfid,
        length=metrics.length,
        validity=metrics.validity,
        rapr=metrics.rapr,
        racpr=metrics.racpr,
        latency_s=float(np.median([sum(t.stage_ms.values()) for t in trajectories])) / 1e3,
        by_family={name: float(np.mean(values)) for name, values in sorted(scores.items())},
        count=len(trajectories),
    )


def family_of(trajectory: Trajectory) -> str:
    return trajectory.sample.id.split("-", 1)[0]


def batches(questions: Sequence[Question], size: int) -> Iterator[Sequence[Question]]:
    for start in range(0, len(questions), size):
        yield questions[start : start + size]


def questions_of_test(count: int, *, shift: ShiftConfig | None = None) -> list[Question]:
    return [Question(index, "test", shift) for index in range(count)]
