"""One request from arrival to its last byte, as a task of its own.

A client that leaves only asks the run to stop: the run itself always goes on until every
trajectory has ended, keeps their traces, and lets go of media and places, in this order.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from functools import partial

from pixelis_fast.conversation import Conversation
from pixelis_fast.loop import Event, LoopClosedError, QueueFullError, Request, Tokens
from pixelis_fast.serve.admission import Place
from pixelis_fast.serve.chat_choice import Choice
from pixelis_fast.serve.chat_request import ChatRequest
from pixelis_fast.serve.chat_response import Head, Json
from pixelis_fast.serve.errors import ApiError, broken, busy
from pixelis_fast.serve.functions import RunsTools
from pixelis_fast.serve.media import check_media, media_bytes
from pixelis_fast.serve.service import Service
from pixelis_fast.serve.top_logprobs import RecordingSampler
from pixelis_fast.trace_record import make_record
from pixelis_fast.types import Media, RolloutStatus, Trajectory

LOG = logging.getLogger(__name__)
Row = Json | ApiError | None
"""A choice of a stream's chunk, what went wrong, or the end."""


class ChatRun:
    """One request's completions.

    Example:
        run = ChatRun(service, chat, headers=request.headers, place=place, arrived_ns=0)
        run.start()
        async for row in run.rows(): ...
    """

    def __init__(
        self,
        service: Service,
        chat: ChatRequest,
        *,
        headers: Mapping[str, str],
        place: Place,
        arrived_ns: int,
    ) -> None:
        self._service, self.chat, self._headers, self._place = service, chat, headers, place
        self._arrived_ns = arrived_ns
        self._loop = asyncio.get_running_loop()
        self._rows: asyncio.Queue[Row] = asyncio.Queue()
        self._all_ended = asyncio.Event()
        self._num_expected: int | None = None
        self._is_cancelled = False
        self._has_tokens = False
        self._media: list[Media] = []
        self.error: ApiError | None = None
        self.choices: list[Choice] = []
        self.head = Head(
            id=f"chatcmpl-{secrets.token_hex(12)}",
            model=service.name,
            created=int(time.time()),
            fingerprint=service.fingerprint,
        )

    def start(self) -> asyncio.Task[None]:
        """Goes on whatever becomes of the caller."""
        deadline = self._loop.call_later(self._service.config.request_timeout_s, self.cancel)
        task = self._service.keep(self._run())
        task.add_done_callback(lambda _: deadline.cancel())
        return task

    def cancel(self) -> None:
        """Every trajectory ends at the loop's next tick; on the event loop's thread."""
        self._is_cancelled = True
        for choice in self.choices:
            if choice.ticket is not None:
                choice.ticket.cancel()

    async def rows(self) -> AsyncIterator[Json]:
        """Choices of chunks as they come; raises what went wrong."""
        while (row := await self._rows.get()) is not None:
            if isinstance(row, ApiError):
                raise row
            yield row

    def trajectories(self) -> list[Trajectory]:
        return [choice.trajectory for choice in self.choices if choice.trajectory is not None]

    async def _run(self) -> None:
        try:
            conversation = await self._service.in_media_thread(self._prepare)
            await self._submit(conversation)
            self._check_ends()
        except ApiError as error:
            self.error = error
        except Exception as error:
            LOG.exception("request: expected an answer")
            self.error = broken(f"request: expected an answer, got {type(error).__name__}")
        try:
            await self._finish()
        finally:
            self._rows.put_nowait(self.error)
            self._rows.put_nowait(None)

    def _prepare(self) -> Conversation:
        """In a thread: media into the store, held by this run from here on."""
        service, chat = self._service, self.chat
        rules, most = service.config.media, service.config.max_body_bytes
        for url in chat.messages.media:
            data = media_bytes(url, rules, max_bytes=most)
            check_media(data, url, rules)
            self._media.append(service.ledger.add(data, url))
        offered = None if chat.functions.runs is RunsTools.SERVER else chat.functions.schemas
        return Conversation(
            id=self.head.id,
            media=tuple(self._media),
            question=chat.messages.question,
            messages=chat.messages.messages,
            system=chat.messages.system,
            tools=offered,
        )

    async def _submit(self, conversation: Conversation) -> None:
        """To the loop; whatever was taken in is waited for, even where the rest was refused."""
        request = await self._service.in_thread(partial(self._request, conversation))
        self.choices = [self._choice(index) for index in range(self.chat.n)]
        refused = await self._service.in_thread(partial(self._submit_each, request))
        self.choices = [choice for choice in self.choices if choice.ticket is not None]
        if refused is not None or self._is_cancelled:
            self.cancel()
        self._num_expected = len(self.choices)
        self._look_at_ends()
        await self._all_ended.wait()
        if refused is not None:
            raise _refusal(refused) from refused

    def _submit_each(self, request: Request) -> Exception | None:
        """In a thread, one after the other: the members of a group find each other.

        What refused one is given back, not raised: those before it run and are waited for first.
        """
        for choice in self.choices:
            if self._is_cancelled:
                break
            try:
                choice.ticket = self._service.loop.submit(
                    self._service.seeded(request, choice.index),
                    chooser=choice.recorder,
                    on_event=partial(self._hear, choice),
                )
            except Exception as error:
                return error
        return None

    def _request(self, conversation: Conversation) -> Request:
        """In a thread: checks that the prompt fits, and finds the grammar."""
        service, chat = self._service, self.chat
        service.check_prompt(conversation, chat.max_tokens)
        return Request(
            sample=conversation,
            sampling=chat.sampling,
            max_steps=chat.max_steps,
            max_tokens=chat.max_tokens,
            max_time_s=service.agent.config.rollout.max_time_s,
            salt=chat.user,
            group_key=self.head.id if chat.n > 1 else None,
            grammar=None if chat.functions.is_plain else service.grammars.get(chat.functions),
            hands_over_calls=chat.functions.runs is RunsTools.CLIENT,
            stop=chat.stop,
        )

    def _choice(self, index: int) -> Choice:
        chat, service = self.chat, self._service
        recorder = None
        if chat.top_logprobs:
            recorder = RecordingSampler(
                service.seeded_sampling(chat.sampling, index),
                banned_ids=service.loop.banned_ids,
                count=chat.top_logprobs,
            )
        return Choice(index, secrets.token_urlsafe(16), chat, service.agent.tokenizer, recorder)

    def _hear(self, choice: Choice, event: Event) -> None:
        """On the rollout's thread: hands the event to the event loop's."""
        self._loop.call_soon_threadsafe(self._take, choice, event, time.time_ns())

    def _take(self, choice: Choice, event: Event, time_ns: int) -> None:
        if isinstance(event, Tokens) and not self._has_tokens:
            self._has_tokens = True
            self._service.metrics.time_to_first_token.observe(1e-9 * (time_ns - self._arrived_ns))
        for row in choice.take(event, time_ns):
            self._rows.put_nowait(row)
        self._look_at_ends()

    def _look_at_ends(self) -> None:
        if self._num_expected is not None and len(self.trajectories()) >= self._num_expected:
            self._all_ended.set()

    def _check_ends(self) -> None:
        """A completion that failed fails the request; one cut off counts if it has tokens."""
        for choice in self.choices:
            trajectory = choice.trajectory
            assert trajectory is not None
            if trajectory.status is RolloutStatus.FAILED:
                raise broken(f"choices[{choice.index}]: {trajectory.error}")
        if not self._has_tokens or len(self.choices) < self.chat.n:
            limit = self._service.config.request_timeout_s
            raise ApiError(
                f"request: expected a token within {limit:g} s, got none; try again later",
                status=503,
                code="timeout",
                headers={"Retry-After": "5"},
            )

    async def _finish(self) -> None:
        """Traces, spans and metrics; then the media and the places go."""
        service = self._service
        seconds = 1e-9 * (time.time_ns() - self._arrived_ns)
        try:
            if self.choices:
                await service.in_thread(self._keep_traces)
                self._measure(seconds)
                self._tell()
            self._record()
        finally:
            await service.in_thread(
                lambda: service.ledger.release([media.id for media in self._media])
            )
            self._place.leave(seconds if self.choices else None)
            for choice in self.choices:
                # The ticket knows this run, and this run its choices: a circle that would keep
                # every trajectory until the garbage collector comes by.
                choice.ticket = None

    def _tell(self) -> None:
        """Of what the agent's own prompt and grammar made: one question, whatever `n` is."""
        if self.chat.functions.is_plain and not self.chat.stop:
            ended = [t for t in self.trajectories() if t.status is RolloutStatus.ANSWERED]
            for listener in self._service.listeners if ended else ():
                listener(ended[0], self.chat.user)

    def _keep_traces(self) -> None:
        for choice in self.choices:
            if choice.trajectory is None:
                continue
            about = {
                "model": self.head.model,
                "created": self.head.created,
                "completion": self.head.id,
                "finish_reason": choice.finish_reason,
            }
            record = make_record(
                choice.trace_id, choice.trajectory, self._service.agent.tokenizer, about=about
            )
            choice.is_kept = self._service.traces.add(record)

    def _measure(self, seconds: float) -> None:
        service = self._service
        service.metrics.request_duration.observe(seconds)
        for choice in self.choices:
            service.measure_choice(choice)

    def _record(self) -> None:
        """A span, of a request too that was refused before it had a choice."""
        self._service.record(
            self._headers,
            arrived_ns=self._arrived_ns,
            error=self.error,
            response_id=self.head.id if self.choices else "",
            tools=[tool for choice in self.choices for tool in choice.tools],
        )


def _refusal(error: Exception) -> Exception:
    """Why the loop took no request, as an answer; anything else is an error of the server."""
    if isinstance(error, QueueFullError):
        return busy(f"server: {error}", retry_after_s=1.0)
    if isinstance(error, ValueError):
        return ApiError(f"messages: {error}", param="messages")
    if isinstance(error, LoopClosedError):
        return ApiError(f"server: {error}", status=503, code="not_running")
    return error
