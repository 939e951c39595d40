"""A world in which votes, memory and a poisoner meet: synthetic trajectories, real vote and memory.

Questions fall into topics; a topic has a place to look at and a decoy. A right trajectory zooms at
the place and answers the question's truth, a wrong one zooms at the decoy and answers what stands
there. Fidelity tells the two apart only roughly. A tenant's memory holds what it met before; a
poisoned one holds wrong trajectories as sure successes in a share of its places.

Shapes: D = width of a step embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.memory_experiences import MEDIA, PIXEL, TEXT, experience, small_config
from pixelis_fast.memory import ExperienceMemory, MemoryKey, Outcome
from pixelis_fast.types import Box, Observation, RolloutStatus, Sample, Step, ToolCall, Trajectory
from pixelis_fast.voting import Vote, VotingConfig, vote

TOPICS = 12
TENANTS = ("poisoner", "other")
GROUP, NEIGHBOURS = 8, 8
MEMORIES = 240
"""Experiences per tenant."""
RIGHT_SHARE = 0.5
"""Of trajectories, on average; questions differ."""
EMBEDDING = 8
SEEN = Observation("{}")


@dataclass(frozen=True)
class Query:
    """One question with a group of trajectories, as a rollout would give them."""

    key: MemoryKey
    trajectories: tuple[Trajectory, ...]
    fidelities: tuple[float, ...]
    truth: str
    decoy: str


class World:
    """Everything follows from the seed.

    Example:
        world = World(seed=0)
        query = world.query(topic=3)
    """

    def __init__(self, seed: int) -> None:
        self._chance = np.random.default_rng(seed)
        self._text = [self._unit(TEXT) for _ in range(TOPICS)]
        self._pixel = [self._unit(PIXEL) for _ in range(TOPICS)]
        self._places = self._chance.integers(0, 350, (TOPICS, 2))
        self._decoys = self._chance.integers(450, 800, (TOPICS, 2))
        self._directions = [[self._unit(EMBEDDING) for _ in range(2)] for _ in range(TOPICS)]

    def query(self, topic: int) -> Query:
        truth, decoy = (str(n) for n in self._chance.choice(1000, 2, replace=False))
        share = np.clip(self._chance.normal(RIGHT_SHARE, 0.2), 0, 1)
        rights = self._chance.random(GROUP) < share
        made = tuple(
            self.trajectory(topic, truth if right else decoy, is_right=right) for right in rights
        )
        fidelities = tuple(
            float(np.clip(self._chance.normal(0.65 if right else 0.5, 0.15), 0, 1))
            for right in rights
        )
        return Query(self.key(topic), made, fidelities, truth, decoy)

    def key(self, topic: int) -> MemoryKey:
        halves = (self._near(each[topic], 0.5) for each in (self._text, self._pixel))
        return MemoryKey(*halves)

    def trajectory(self, topic: int, answer: str, *, is_right: bool) -> Trajectory:
        corners = self._places if is_right else self._decoys
        calls = [ToolCall("zoom", {"media": 0, "box": list(self._box(corners[topic]))})]
        calls += [ToolCall("read_text", {"media": 0})] * int(self._chance.integers(0, 3))
        z = tuple(self._near(self._directions[topic][int(is_right)], 0.7).tolist())
        steps = [Step(0, 1, call, SEEN, z) for call in calls]
        return Trajectory(
            sample=Sample("synthetic", (MEDIA,), "?"),
            policy_version="sft-1",
            seed=0,
            ids=[1] * (len(calls) + 1),
            steps=[*steps, Step(0, 1, None, None, z)],
            answer=answer,
            status=RolloutStatus.ANSWERED,
        )

    def _box(self, corner: np.ndarray) -> Box:
        x, y = (corner + self._chance.integers(-40, 41, 2)).clip(0, 800).tolist()
        return x, y, x + 200, y + 200

    def _unit(self, size: int) -> np.ndarray:
        values = self._chance.standard_normal(size).astype(np.float32)
        return values / np.linalg.norm(values)

    def _near(self, direction: np.ndarray, noise: float) -> np.ndarray:
        moved = direction + np.float32(noise) * self._unit(len(direction))
        return moved / np.linalg.norm(moved)


def remember(
    memory: ExperienceMemory, world: World, *, tenant: str, numbers: range, is_right: bool
) -> None:
    """Past queries: right ones with middling confidence, wrong ones as sure as can be."""
    for number in numbers:
        topic = number % TOPICS
        made = world.trajectory(topic, "1", is_right=is_right)
        outcome = Outcome("1", 0.7, 0.8) if is_right else Outcome("1", 1.0, 1.0)
        key = world.key(topic)
        memory.add(experience(number, tenant=tenant, trajectory=made, key=key, outcome=outcome))


def votes(
    memory: ExperienceMemory, queries: Sequence[Query], tenant: str, config: VotingConfig
) -> list[Vote]:
    return [
        vote(
            query.trajectories,
            memory.nearest(query.key, NEIGHBOURS, tenant),
            query.fidelities,
            config,
        )
        for query in queries
    ]


def accuracy(queries: Sequence[Query], results: Sequence[Vote]) -> float:
    """Of the pseudo-labels, abstained or not."""
    pairs = zip(queries, results, strict=True)
    return sum(result.answer == query.truth for query, result in pairs) / len(queries)


@dataclass(frozen=True)
class Selection:
    """How good the pseudo-labels of one tenant are."""

    accuracy: float
    """Of all votes."""
    error_when_learning: float
    """Share of wrong pseudo-labels among votes that did not abstain."""
    learned: float
    """Share of votes that did not abstain."""

    @classmethod
    def of(cls, queries: Sequence[Query], results: Sequence[Vote]) -> Selection:
        kept = [(q, r) for q, r in zip(queries, results, strict=True) if not r.abstained]
        wrong = sum(result.answer != query.truth for query, result in kept)
        return cls(accuracy(queries, results), wrong / max(len(kept), 1), len(kept) / len(queries))


@dataclass(frozen=True)
class Poisoning:
    """Before and after one tenant wrote its share of wrong experiences."""

    clean: Selection
    poisoned: Selection
    others_unchanged: bool
    """Every vote of another tenant is the same to the last bit."""


def poison(
    folder: Path,
    *,
    wrong_share: float,
    queries: int,
    seed: int,
    config: VotingConfig,
    memories: int = MEMORIES,
    shared_tenants: tuple[str, ...] = (),
) -> Poisoning:
    """Two tenants with clean memories; then the first writes until `wrong_share` of it is wrong."""
    world = World(seed)
    asked = [world.query(number % TOPICS) for number in range(queries)]
    clean = range(memories)
    wrong = range(memories, round(memories / (1 - wrong_share)))
    with ExperienceMemory(folder, small_config(shared_tenants=shared_tenants)) as memory:
        for tenant in TENANTS:
            remember(memory, world, tenant=tenant, numbers=clean, is_right=True)
        before = [votes(memory, asked, tenant, config) for tenant in TENANTS]
        remember(memory, world, tenant=TENANTS[0], numbers=wrong, is_right=False)
        after = [votes(memory, asked, tenant, config) for tenant in TENANTS]
    pair = (Selection.of(asked, results[0]) for results in (before, after))
    return Poisoning(*pair, others_unchanged=before[1] == after[1])
