"""What all requests of one server share: agent, loop, media, grammars, traces, metrics, threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from pixelis_fast.agent import Agent
from pixelis_fast.conversation import Conversation
from pixelis_fast.loop import Loop, Request
from pixelis_fast.policy.sampling import Sampling
from pixelis_fast.prompt import PromptBuilder
from pixelis_fast.schemas import TOOL_SCHEMAS
from pixelis_fast.serve.admission import Admission
from pixelis_fast.serve.answer_grammar import AnswerGrammars
from pixelis_fast.serve.chat_choice import Choice
from pixelis_fast.serve.config import ServeConfig
from pixelis_fast.serve.errors import ApiError
from pixelis_fast.serve.media import MediaLedger
from pixelis_fast.serve.metrics import Metrics
from pixelis_fast.serve.telemetry import ToolSpan, record_request
from pixelis_fast.serve.traces import TraceRing
from pixelis_fast.types import TokenRole, Trajectory

Value = TypeVar("Value")
Listener = Callable[[Trajectory, str], None]
"""A finished trajectory and its tenant; on the event loop's thread, so it must not wait."""
SEEDS = 2**63


class Service:
    """One server's state.

    Example:
        service = Service(agent, ServeConfig())
        with service.loop: ...
    """

    def __init__(self, agent: Agent, config: ServeConfig) -> None:
        if not agent.config.rollout.grammar:
            raise ValueError("serve: expected a rollout with grammar=True, got False")
        self.agent, self.config = agent, config
        self.name = config.name or agent.config.policy.rstrip("/").rsplit("/", 1)[-1]
        self.ledger = MediaLedger(agent.tools)
        self.traces = TraceRing(self.ledger, byte_budget=config.trace_bytes)
        self.admission = Admission(config.max_requests)
        own = agent.config.loop
        shared = replace(
            own,
            prefill_tokens=config.prefill_tokens or own.prefill_tokens,
            prefetch_arrivals=config.prefetch_arrivals or own.prefetch_arrivals,
        )
        self.loop.configure(shared)
        text = agent.policy.config.text
        self.max_positions = text.max_positions
        self.grammars = AnswerGrammars(
            agent.tokenizer,
            vocab_size=text.vocab_size,
            max_thought_tokens=agent.config.rollout.max_thought_tokens,
        )
        self.stats: dict[str, Callable[[], Any]] = {
            "loop": self.loop.stats,
            "engine": agent.engine.stats,
            "tools": lambda: agent.tools.toolset.stats().to_json(),
        }
        self.metrics = Metrics(model=self.name, stats=self.stats)
        self.listeners: list[Listener] = []
        """Are told of every completion by the agent's own tools, while its media are held."""
        self._prompt = PromptBuilder(agent.tokenizer, TOOL_SCHEMAS)
        # Apart: a long video must not hold up the prompts and traces of others.
        self._media_threads = ThreadPoolExecutor(config.media_threads, thread_name_prefix="media")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prompts")
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def loop(self) -> Loop:
        return self.agent.loop

    @property
    def fingerprint(self) -> str:
        """Of the weights that serve now."""
        return self.agent.engine.version

    async def in_thread(self, call: Callable[[], Value]) -> Value:
        """What takes milliseconds, off the event loop's thread; nothing interrupts it."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def in_media_thread(self, call: Callable[[], Value]) -> Value:
        """What decodes or renders pixels."""
        return await asyncio.get_running_loop().run_in_executor(self._media_threads, call)

    def keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that nobody else holds on to."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def drain(self) -> None:
        """Nobody new comes in; waits for whoever is inside."""
        self.admission.is_draining = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self.config.shutdown_s)

    def close(self) -> None:
        self._media_threads.shutdown()
        self._thread.shutdown()

    def check_prompt(self, conversation: Conversation, max_tokens: int) -> None:
        """400 unless prompt and generated tokens fit into the policy's positions."""
        views = self.agent.views
        try:
            piece = self._prompt.opening(
                conversation, [views.tokens(m) for m in conversation.media]
            )
        except ValueError as error:
            raise ApiError(f"messages: {error}", param="messages") from error
        if len(piece.ids) + max_tokens > self.max_positions:
            raise ApiError(
                f"messages: expected at most {self.max_positions} tokens, got {len(piece.ids)} of "
                f"the prompt and {max_tokens} to generate",
                param="messages",
                code="context_length_exceeded",
            )

    def seeded(self, request: Request, index: int) -> Request:
        return replace(request, sampling=self.seeded_sampling(request.sampling, index))

    def seeded_sampling(self, sampling: Sampling, index: int) -> Sampling:
        """The n completions of a request draw from streams of their own."""
        return replace(sampling, seed=(sampling.seed + index) % SEEDS)

    def record(
        self,
        headers: Mapping[str, str],
        *,
        arrived_ns: int,
        error: ApiError | None,
        response_id: str = "",
        tools: Sequence[ToolSpan] = (),
    ) -> None:
        """A request's span; one that was refused has no response."""
        attributes: dict[str, str | int] = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.request.model": self.name,
        }
        if response_id:
            attributes["gen_ai.response.id"] = response_id
        if error is not None:
            attributes["http.response.status_code"] = error.status
        record_request(
            headers,
            start_ns=arrived_ns,
            end_ns=time.time_ns(),
            attributes=attributes,
            tools=tools,
            error=None if error is None else str(error),
        )

    def measure_choice(self, choice: Choice) -> None:
        trajectory, metrics = choice.trajectory, self.metrics
        if trajectory is None or trajectory.status is None:
            return
        metrics.finished.labels(trajectory.status.value).inc()
        calls = [step for step in trajectory.steps if step.observation is not None]
        metrics.tool_calls.observe(len(calls))
        metrics.invalid_calls.inc(sum(step.call is None for step in calls))
        for tool in choice.tools:
            metrics.tool_duration.labels(tool.tool).observe(1e-9 * (tool.end_ns - tool.start_ns))
        shown = [role in (TokenRole.PROMPT, TokenRole.OBSERVATION) for role in trajectory.roles]
        metrics.tokens.labels("input").observe(sum(shown))
        metrics.tokens.labels("output").observe(len(shown) - sum(shown))

    def metrics_text(self) -> bytes:
        self.metrics.kept_traces.set(len(self.traces))
        self.metrics.trace_bytes.set(self.traces.num_bytes)
        self.metrics.media.set(self.ledger.num_media)
        return self.metrics.text()
