"""Agents, requests, scripted turns, and tools that a test lets go: what the loop's tests share."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from pixelis_fast.agent import Agent, AgentConfig, build_agent
from pixelis_fast.loop import LoopConfig, Request
from pixelis_fast.policy.engine import EngineConfig
from pixelis_fast.policy.sampling import Sampling
from pixelis_fast.rollout import RolloutConfig
from pixelis_fast.script import Script
from pixelis_fast.tools import PendingCall, ToolBox, Workspace
from pixelis_fast.types import Observation, Sample, ToolCall, Trajectory
from tests.media import clip, picture

ANSWER = "<answer>24</answer>"


def call_text(name: str, **arguments: Any) -> str:
    call = json.dumps({"name": name, "arguments": arguments}, separators=(",", ":"))
    return f"<tool_call>\n{call}\n</tool_call>"


ZOOM = call_text("zoom", media=0, box=[0, 0, 500, 500])
SEGMENT = call_text("segment", media=0, box=[60, 60, 220, 260])
READ = call_text("read_text", media=0)
LONG = "<answer>" + "one two three four " * 10 + "</answer>"
SCRIPTS = {
    100: ("Look. " + ZOOM, ANSWER),
    101: (SEGMENT, call_text("properties", mask=0), ANSWER),
    102: (READ, ANSWER),
    103: (call_text("zoom", media=0, box=[300, 200, 700, 800], time=0.5), ZOOM, ANSWER),
}
"""By seed."""
SAMPLED = Sampling(temperature=1.0, seed=3)
LIMITS = {"max_steps": 2, "max_tokens": 48}


def thoughtless_agent() -> Agent:
    """Short thoughts: random weights then call tools every other turn."""
    return build_agent(AgentConfig(policy="unit", rollout=RolloutConfig(max_thought_tokens=6)))


def variant(
    agent: Agent,
    *,
    held: tuple[str, ...] = (),
    engine: EngineConfig | None = None,
    **loop: Any,
) -> Agent:
    """The same policy under another loop, with some tools held back."""
    config = replace(agent.config, loop=LoopConfig(**loop), engine=engine or agent.config.engine)
    wrap = (lambda tools: HeldTools(tools, held=held)) if held else None
    return agent.variant(config, wrap_tools=wrap)


def small(agent: Agent, coins: Sample, *, factor: float, held: tuple[str, ...] = ()) -> Agent:
    """With room for so many of the longest trajectories."""
    session = agent.engine.open()
    per_token = session.cache.bytes_per_token
    agent.engine.close(session)
    prompt = len(alone(agent, ask(coins, 0, max_tokens=1)).ids)
    budget = int(factor * (prompt + 500) * per_token)
    return variant(agent, held=held, engine=EngineConfig(kv_bytes=budget, prefix_cache_bytes=0))


def coins_of(agent: Agent) -> Sample:
    """In the agent's own store, which a variant does not share."""
    return Sample("coins", (agent.tools.add_media(picture("coins.png")),), "How many coins?")


def phone_of(agent: Agent) -> Sample:
    media = agent.tools.add_media(clip("carphone_pristine.mp4"))
    return Sample("phone", (media,), "When does he look away?")


def ask(sample: Sample, seed: int, **options: Any) -> Request:
    """Drawn from the policy, or one of the scripts, which use tools more than random weights do."""
    limits = {"max_tokens": 400} if seed in SCRIPTS else LIMITS
    return Request(sample, replace(SAMPLED, seed=seed), **limits | options)


def chooser_of(agent: Agent, request: Request) -> Script | None:
    turns = SCRIPTS.get(request.sampling.seed)
    return script(agent, *turns) if turns else None


def alone(agent: Agent, request: Request) -> Trajectory:
    """The request with nobody beside it."""
    with agent.loop:
        return agent.loop.submit(request, chooser=chooser_of(agent, request)).result(timeout_s=20)


class Alone:
    """What a request gives alone; computed once for each."""

    def __init__(self, agent: Agent) -> None:
        """Requests show what lies in the agent's own store."""
        coins_of(agent)
        phone_of(agent)
        self._agent = agent
        self._known: dict[Request, Trajectory] = {}

    def __call__(self, request: Request) -> Trajectory:
        key = replace(request, group_key=None, salt="", in_step=False)
        if key not in self._known:
            self._known[key] = alone(self._agent, key)
        return self._known[key]


def script_ids(agent: Agent, *turns: str) -> list[int]:
    return [i for turn in turns for i in agent.tokenizer.encode_structure(turn + "<|im_end|>")]


def script(agent: Agent, *turns: str) -> Script:
    return Script(script_ids(agent, *turns))


def same_tokens(one: Trajectory, other: Trajectory) -> bool:
    """Ids, roles, spans, answer and what the tools said."""
    return all(
        getattr(one, name) == getattr(other, name)
        for name in ("ids", "roles", "forced", "spans", "answer", "status")
    ) and [texts(step) for step in one.steps] == [texts(step) for step in other.steps]


def texts(step: Any) -> tuple[Any, str | None]:
    return step.call, None if step.observation is None else step.observation.text


def until(condition: Callable[[], bool], *, seconds: float = 20.0) -> None:
    """Waits for what another thread does; fails when it does not."""
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, "expected the condition within the time"
        time.sleep(0.001)


class HeldCall(PendingCall):
    """A call whose result comes when the test says so."""

    def __init__(self, call: ToolCall, sent: PendingCall, *, speculative: bool) -> None:
        self.call, self.speculative = call, speculative
        self._sent = sent
        self._let_go = threading.Event()
        self._wakers: list[Callable[[], None]] = []
        self.was_cancelled = False

    def let_go(self) -> None:
        self._let_go.set()
        for wake in self._wakers:
            wake()

    def done(self) -> bool:
        return self._let_go.is_set()

    def when_done(self, wake: Callable[[], None]) -> None:
        self._wakers.append(wake)
        if self.done():
            wake()

    def cancel(self) -> bool:
        self.was_cancelled = True
        return True

    def result(self, timeout_s: float | None = None) -> Observation:
        assert self._let_go.wait(timeout_s)
        return self._sent.result()


class HeldTools:
    """A tool box whose calls of some operations are held back; the real tools do the work."""

    def __init__(self, tools: ToolBox, *, held: Sequence[str]) -> None:
        self._tools, self._held = tools, held
        self.calls: list[HeldCall] = []

    def submit(self, call: ToolCall, workspace: Workspace, **options: Any) -> PendingCall:
        sent = self._tools.submit(call, workspace, **options)
        if call.operation not in self._held:
            return sent
        self.calls.append(HeldCall(call, sent, speculative=options.get("speculative", False)))
        return self.calls[-1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tools, name)
