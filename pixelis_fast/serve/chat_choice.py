"""One of a request's n completions: its events become deltas, its end a finish reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pixelis_fast.loop import Call, Ended, Event, Observed, RolloutTicket, Tokens
from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.serve.assembler import Assembler, Delta
from pixelis_fast.serve.chat_request import ChatRequest
from pixelis_fast.serve.chat_response import FINISH_REASONS, Json, LogprobRows, delta_row, message
from pixelis_fast.serve.functions import RunsTools
from pixelis_fast.serve.telemetry import ToolSpan
from pixelis_fast.serve.top_logprobs import RecordingSampler
from pixelis_fast.types import Observation, TokenRole, Trajectory


@dataclass
class Choice:
    """A completion while it is made and when it is done; touched by the event loop's thread."""

    index: int
    trace_id: str
    chat: ChatRequest
    tokenizer: Tokenizer
    recorder: RecordingSampler | None = None
    ticket: RolloutTicket | None = None
    trajectory: Trajectory | None = None
    """Once it has ended."""
    is_kept: bool = False
    """Whether its trace is in the ring."""
    tools: list[ToolSpan] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    """Of the generated tokens that the content is made of."""
    _called: tuple[str, int] | None = None
    _is_open: bool = False

    def __post_init__(self) -> None:
        hands_over = self.chat.functions.runs is RunsTools.CLIENT
        self.assembler = Assembler(self.tokenizer, stop=self.chat.stop, hands_over=hands_over)
        ranked = self.recorder.ranked if self.recorder is not None else None
        self.logprobs = LogprobRows(self.tokenizer, ranked=ranked)

    @property
    def finish_reason(self) -> str:
        assert self.trajectory is not None, "expected a completion that ended"
        assert self.trajectory.status is not None
        # A completion that failed is nobody's answer, but has a trace.
        return FINISH_REASONS.get(self.trajectory.status, "error")

    def take(self, event: Event, time_ns: int) -> list[Json]:
        """Rows of a stream's choices that the event leads to; the first opens the choice.

        An end before any token opens nothing: it may be an error with a status of its own.
        """
        opens = not (self._is_open or isinstance(event, Ended))
        self._is_open = self._is_open or opens
        return [*([self._opening_row()] if opens else []), *self._take(event, time_ns)]

    def _take(self, event: Event, time_ns: int) -> list[Json]:
        if isinstance(event, Tokens):
            self.logprobs.add(event.ids, event.logprobs)
            return [self._row(delta) for delta in self.assembler.push(event.ids)]
        if isinstance(event, Call):
            self._called = (event.call.operation, time_ns)
            return self._step_rows(event.step, {"call": asdict(event.call)})
        if isinstance(event, Observed):
            self._note_tool(event.observation, time_ns)
            return self._step_rows(event.step, {"observation": observation_row(event.observation)})
        assert isinstance(event, Ended), event
        self.trajectory = event.trajectory
        return [self._row(delta) for delta in self.assembler.finish()]

    def _opening_row(self) -> Json:
        return self._stream_row({"role": "assistant", "content": "", "refusal": None})

    def last_row(self) -> Json:
        row = self._stream_row({})
        return {**row, "finish_reason": self.finish_reason, "pixelis": self.about(steps=False)}

    def whole_row(self) -> Json:
        """The choice of an answer that is no stream."""
        assembler = self.assembler
        logprobs = self.logprobs.of(self.numbers) if self.chat.logprobs else None
        return {
            "index": self.index,
            "message": message(
                content=assembler.content, reasoning=assembler.reasoning, calls=assembler.calls
            ),
            "logprobs": logprobs,
            "finish_reason": self.finish_reason,
            "pixelis": self.about(steps=self.chat.shows_trace),
        }

    def about(self, *, steps: bool) -> Json:
        """What OpenAI's form has no place for."""
        trajectory = self.trajectory
        assert trajectory is not None
        assert trajectory.status is not None
        row: Json = {
            "status": trajectory.status.value,
            "seed": trajectory.seed,
            "trace": f"/trace/{self.trace_id}" if self.is_kept else None,
        }
        if steps:
            row["steps"] = [
                {
                    "call": asdict(step.call) if step.call else None,
                    "observation": observation_row(step.observation),
                }
                for step in trajectory.steps
                if step.observation is not None
            ]
            row["stage_ms"] = {name: round(ms, 3) for name, ms in trajectory.stage_ms.items()}
        if self.chat.shows_tokens:
            row["tokens"] = tokens_row(trajectory)
        return row

    def _row(self, delta: Delta) -> Json:
        self.numbers += delta.tokens
        row = self._stream_row(delta_row(delta, call_index=max(0, len(self.assembler.calls) - 1)))
        if self.chat.logprobs and delta.tokens:
            row["logprobs"] = self.logprobs.of(delta.tokens)
        return row

    def _stream_row(self, delta: Json) -> Json:
        return {"index": self.index, "delta": delta, "logprobs": None, "finish_reason": None}

    def _step_rows(self, step: int, what: Json) -> list[Json]:
        if not self.chat.shows_trace:
            return []
        return [{**self._stream_row({}), "pixelis": {"step": step, **what}}]

    def _note_tool(self, observation: Observation, time_ns: int) -> None:
        if self._called is not None:
            tool, start_ns = self._called
            self.tools.append(ToolSpan(tool, start_ns, time_ns, observation.error))
            self._called = None


def observation_row(observation: Observation) -> Json:
    """Masks and crops stay in the trace; the text says what the policy read."""
    return {
        "text": observation.text,
        "error": observation.error,
        "degraded": observation.degraded,
        "engine": observation.engine,
        "stage_ms": {name: round(ms, 3) for name, ms in observation.stage_ms.items()},
    }


def tokens_row(trajectory: Trajectory) -> dict[str, Sequence[Any]]:
    """Token-in, token-out: what a trainer needs, prompt and observations included."""
    return {
        "ids": trajectory.ids,
        "roles": [TokenRole(role).name.lower() for role in trajectory.roles],
        "logprobs": trajectory.logprobs,
        "forced": trajectory.forced,
    }
