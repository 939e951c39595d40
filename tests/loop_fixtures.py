"""Scripted turns, and tools that the test lets go: what the loop's tests share."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from pixelis_fast.agent import Agent
from pixelis_fast.script import Script
from pixelis_fast.tools import PendingCall, ToolBox, Workspace
from pixelis_fast.types import Observation, ToolCall, Trajectory

ANSWER = "<answer>24</answer>"


def call_text(name: str, **arguments: Any) -> str:
    call = json.dumps({"name": name, "arguments": arguments}, separators=(",", ":"))
    return f"<tool_call>\n{call}\n</tool_call>"


ZOOM = call_text("zoom", media=0, box=[0, 0, 500, 500])
SEGMENT = call_text("segment", media=0, box=[60, 60, 220, 260])
READ = call_text("read_text", media=0)


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
