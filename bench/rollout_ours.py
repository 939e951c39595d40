"""Our arm: the group through the agent's own rollout, led by a script; and its tools alone.

Each run comes after a publish, as each batch of a training does: what an earlier run prefilled
serves no other. New pictures see to the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from bench.ours import Recorder
from bench.pinned import PinnedChain, pin, script_ids
from bench.rollout_cases import GroupCase
from bench.rollout_runs import TOOLS_ALONE, GroupRun, MemberRun, own_ms
from bench.scenes import Scene
from pixelis_fast.agent import Agent
from pixelis_fast.policy.engine import Engine
from pixelis_fast.script import Script
from pixelis_fast.tools import ToolBox, Workspace
from pixelis_fast.types import Media, Sample, Trajectory

Pinned = Mapping[str, tuple[PinnedChain, ...]]
"""By name of the group."""


class ArgmaxScript(Script):
    """A script that keeps the policy's greedy choice at every token it is asked for."""

    def __init__(self, ids: Sequence[int], **given: Any) -> None:
        super().__init__(ids, **given)
        self.argmax: list[int] = []

    def choose(self, logits_V: Tensor, allowed_V: Tensor | None) -> tuple[int, float]:
        self.argmax.append(int(logits_V.argmax()))
        return super().choose(logits_V, allowed_V)


class PolicyClock:
    """Adds up the wall time of an engine's forwards."""

    def __init__(self, engine: Engine) -> None:
        self.total_ms = 0.0
        for name in ("extend", "encode_ahead"):
            setattr(engine, name, self._timed(getattr(engine, name)))

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*given, **named)
            finally:
                self.total_ms += 1e3 * (time.perf_counter() - start)

        return run


class GroupOurs:
    """Runs a group through an agent, all members at once or one by one."""

    def __init__(
        self, name: str, agent: Agent, pinned: Pinned, *, one_by_one: bool = False
    ) -> None:
        self.name = name
        self._agent, self._pinned, self._one_by_one = agent, pinned, one_by_one
        self._clock = PolicyClock(agent.engine)

    def run(self, case: GroupCase, source: Scene) -> GroupRun:
        self._agent.engine.publish(self._agent.engine.version)
        policy_ms = self._clock.total_ms
        samples = group_samples(case, add_picture(self._agent.tools, source))
        scripts = [
            ArgmaxScript(script_ids(member, self._agent.tokenizer), observations=pinned.pieces)
            for member, pinned in zip(case.members, self._pinned[case.name], strict=True)
        ]
        trajectories = self._run(samples, scripts)
        members = tuple(
            member_run(trajectory, script)
            for trajectory, script in zip(trajectories, scripts, strict=True)
        )
        tools_ms = sum(
            own_ms(step.observation)
            for trajectory in trajectories
            for step in trajectory.steps
            if step.observation is not None
        )
        stages = {"policy": self._clock.total_ms - policy_ms, "tools": tools_ms}
        return GroupRun(members, stages)

    def _run(self, samples: Sequence[Sample], scripts: Sequence[ArgmaxScript]) -> list[Trajectory]:
        rollout = self._agent.rollout
        if not self._one_by_one:
            return rollout.run(samples, make_chooser=lambda index: scripts[index])
        alone: list[Trajectory] = []
        for sample, script in zip(samples, scripts, strict=True):
            alone += rollout.run([sample], make_chooser=lambda _, script=script: script)  # type: ignore[misc]
        return alone


class ToolsAlone:
    """The calls of a group and nothing else: what the tools need when no policy is waited for.

    Every member's call of a step is handed in at once, which is the sooner end.
    """

    name = TOOLS_ALONE

    def __init__(self, tools: ToolBox) -> None:
        self._tools = tools

    def run(self, case: GroupCase, source: Scene) -> GroupRun:
        media = add_picture(self._tools, source)
        spaces = [Workspace((media,)) for _ in case.members]
        tools_ms = 0.0
        for number in range(case.num_steps):
            pending = [
                self._tools.submit(member.calls[number], space)
                for member, space in zip(case.members, spaces, strict=True)
            ]
            tools_ms += sum(own_ms(each.result()) for each in pending)
        return GroupRun((), {"tools": tools_ms})


def reference_group(agent: Agent, case: GroupCase, source: Scene) -> tuple[PinnedChain, ...]:
    """One run that fixes the tokens of every member for every arm."""
    recorders = [Recorder(script_ids(member, agent.tokenizer)) for member in case.members]
    samples = group_samples(case, add_picture(agent.tools, source))
    trajectories = agent.rollout.run(samples, make_chooser=lambda index: recorders[index])
    return tuple(
        pin(member, trajectory, recorder.pieces)
        for member, trajectory, recorder in zip(case.members, trajectories, recorders, strict=True)
    )


def beginning(chains: Sequence[PinnedChain], case: GroupCase) -> tuple[PinnedChain, ...]:
    """The chains of a smaller group: as many members, and after as many steps the answer.

    Members make the same calls and give the same answer however many steps there are.
    """
    return tuple(cut_short(chain, case.num_steps) for chain in chains[: case.size])


def cut_short(chain: PinnedChain, num_steps: int) -> PinnedChain:
    start, _ = chain.turns[num_steps]
    answer = chain.ids[slice(*chain.turns[-1])]
    return replace(
        chain,
        ids=chain.ids[:start] + answer,
        turns=(*chain.turns[:num_steps], (start, start + len(answer))),
        observations=chain.observations[:num_steps],
        pieces=chain.pieces[:num_steps],
        crops=chain.crops[:num_steps],
    )


def add_picture(tools: ToolBox, source: Scene) -> Media:
    return tools.media(tools.store.add_image(source.encoded).id)


def group_samples(case: GroupCase, media: Media) -> list[Sample]:
    """The same media and question for every member."""
    return [Sample(member.name, (media,), member.question) for member in case.members]


def member_run(trajectory: Trajectory, script: ArgmaxScript) -> MemberRun:
    """A forced token had no logits, so it has neither a greedy choice nor a log-probability."""
    chosen = [
        index
        for step in trajectory.steps
        for index in range(step.start, step.end)
        if not trajectory.forced[index]
    ]
    seen = [step.observation for step in trajectory.steps if step.observation is not None]
    return MemberRun(
        ids=trajectory.ids,
        argmax=dict(zip(chosen, script.argmax, strict=True)),
        logprobs={index: trajectory.logprobs[index] for index in chosen},
        observations=tuple(observation.text for observation in seen),
    )
