"""Groups whose answers the test decides, run by the real loop: every token is a real forward's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from pixelis_fast.agent import Agent, AgentConfig, assemble, open_policy
from pixelis_fast.audit import read_events
from pixelis_fast.corridor import CorridorConfig
from pixelis_fast.fidelity import label_free_fidelity
from pixelis_fast.phases.ttrl import open_memory, parts_of
from pixelis_fast.phases.ttrl_learner import TtrlLearner
from pixelis_fast.phases.ttrl_parts import Parts
from pixelis_fast.phases.ttrl_types import TtrlConfig
from pixelis_fast.policy.adapters import AdapterBank
from pixelis_fast.policy.published import Published
from pixelis_fast.policy.sampling import Sampling, mask_logits
from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.rollout import RolloutConfig, wait_for
from pixelis_fast.script import Script
from pixelis_fast.types import Sample, Trajectory
from tests.loop_fixtures import ZOOM, call_text, script_ids
from tests.media import picture

CLOSER = call_text("zoom", media=0, box=[200, 200, 700, 600])
AGREED = {"24": 3, "7": 1}
VERSION = "unit#random-0"
RATE = 1e-2
NARROW = CorridorConfig(low=0.0005, high=0.001, searches=0)
"""One step at RATE goes far beyond it."""


def unit_agent() -> Agent:
    """Random weights and a prompt of few tokens."""
    rollout = RolloutConfig(max_thought_tokens=6, overlap=False, embeddings=True)
    config = AgentConfig(policy="unit", rollout=rollout)
    return assemble(config, replace(open_policy(config), tokenizer=Tokenizer.pixelworld()))


def coins_of(agent: Agent, number: int = 0) -> Sample:
    media = (agent.tools.add_media(picture("coins.png")),)
    return Sample(f"coins-{number}", media, f"How many coins are in row {number}?", answer="24")


class MaskedScript(Script):
    """Records what a sampler would have: log-probabilities of the policy that the grammar binds."""

    def __init__(self, ids: Sequence[int], banned_ids: torch.Tensor) -> None:
        super().__init__(ids)
        self._banned_ids = banned_ids

    def choose(self, logits_V, allowed_V):
        token, _ = super().choose(logits_V, allowed_V)
        open_V = mask_logits(logits_V, allowed=allowed_V, banned_ids=self._banned_ids)
        return token, float(torch.log_softmax(open_V, dim=-1)[token])


class ScriptedRun:
    """A group of as many zooms and answers as `answers` says; the canary answers `canary`."""

    def __init__(self, agent: Agent, answers: dict[str, int] | None = None) -> None:
        self.agent, self.answers = agent, answers or AGREED
        self.canary: str | None = None
        """What a candidate answers; None: 24."""
        self.calls: list[tuple[int, str, str | None]] = []

    def __call__(
        self, samples, *, seed, temperature, tenant="", under: Published | None = None
    ) -> list[Trajectory]:
        agent = self.agent
        self.calls.append((seed, tenant, under and under.version))
        config = replace(agent.config.rollout, sampling=Sampling(temperature, seed=seed))
        requests = agent.rollout.with_config(config).requests(samples)
        requests = [replace(r, salt=tenant, under=under) for r in requests]
        choosers = [self._script(turns) for turns in self._turns(samples, under)]
        with agent.loop as loop:
            return wait_for(loop.submit_all(requests, choosers=choosers))

    def _turns(self, samples, under) -> list[tuple[str, ...]]:
        if len({sample.id for sample in samples}) == len(samples):
            is_candidate = under is not None and "+ttrl" in under.version
            answer = self.canary if is_candidate and self.canary else "24"
            return [(ZOOM, f"<answer>{answer}</answer>")] * len(samples)
        answers = [answer for answer, count in self.answers.items() for _ in range(count)]
        return [
            (*([ZOOM] if i % 2 else [ZOOM, CLOSER]), f"<answer>{answers[i]}</answer>")
            for i in range(len(samples))
        ]

    def _script(self, turns: tuple[str, ...]) -> MaskedScript:
        return MaskedScript(script_ids(self.agent, *turns), self.agent.loop.banned_ids)


class Bench:
    """A learner on a scripted agent."""

    def __init__(
        self,
        agent: Agent,
        folder: Path,
        *,
        answers: dict[str, int] | None = None,
        canary: bool = False,
        only_for: str = "",
        **config,
    ) -> None:
        self.agent, self.is_closed = agent, False
        self.config = TtrlConfig(out=str(folder), group=4, rank=2, **config)
        self.run = ScriptedRun(agent, answers)
        self._stack = ExitStack()
        self.memory = self._stack.enter_context(open_memory(agent, self.config))
        samples = [coins_of(agent, 100), coins_of(agent, 101)] if canary else []
        parts = parts_of(agent, self.config, self.memory, canary=samples, only_for=only_for)
        self.parts: Parts = replace(
            parts,
            run=self.run,
            judge=lambda trajectory: label_free_fidelity(trajectory, agent.tools),
            canary=None if parts.canary is None else type(parts.canary)(samples, self.run),
        )
        self.learner = TtrlLearner(self.config, self.parts)

    @property
    def updater(self):
        return self.parts.updater

    def step(self, number: int = 0, *, tenant: str = "lab"):
        return self.learner.step(coins_of(self.agent, number), tenant=tenant)

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.learner.close()
            self._stack.close()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def fresh(agent: Agent) -> Agent:
    """The agent as if it had never published a bank."""
    agent.engine.publish(VERSION)
    return agent


def served(bench: Bench) -> AdapterBank | None:
    return bench.agent.engine.shelf.serving().bank


def greedy(bench: Bench) -> list[int]:
    """What is served says to a question nobody asked yet."""
    agent = bench.agent
    config = replace(agent.config.rollout, sampling=Sampling(), max_tokens=24)
    sample = coins_of(agent, 77)
    return agent.rollout.with_config(config).run([sample])[0].ids


def events(bench: Bench, kind: str) -> list[dict]:
    path = Path(bench.config.out) / "audit.jsonl"
    return [row["data"] for row in read_events(path) if row["kind"] == kind]


def raising(error: BaseException):
    def call(*arguments, **options):
        raise error

    return call
