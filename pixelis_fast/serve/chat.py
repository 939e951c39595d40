"""POST /v1/chat/completions: reads the request, runs it, answers whole or as a stream of events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from pixelis_fast.serve.admission import Place
from pixelis_fast.serve.body import read_body
from pixelis_fast.serve.chat_request import ChatRequest
from pixelis_fast.serve.chat_response import Json, usage
from pixelis_fast.serve.chat_run import ChatRun
from pixelis_fast.serve.errors import CLIENT_CLOSED, ApiError
from pixelis_fast.serve.fields import parse_json
from pixelis_fast.serve.service import Service

EVENTS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Proxies would collect what should be passed on at once.
    (b"x-accel-buffering", b"no"),
)
LARGE_BODY = 1 << 16
"""Bytes of JSON from which parsing is too long for the event loop's thread."""


async def chat_completions(request: Request) -> Response | EventStream:
    """One chat completion; ApiError is for the application to answer."""
    service: Service = request.app.state.service
    arrived_ns = time.time_ns()
    try:
        chat, place = await _enter(request, service)
    except ApiError as error:
        service.record(request.headers, arrived_ns=arrived_ns, error=error)
        raise
    # From here on the place is the run's to give back.
    run = ChatRun(service, chat, headers=request.headers, place=place, arrived_ns=arrived_ns)
    run.start()
    if not run.chat.stream:
        return await _whole(request, run)
    return await EventStream.open(request, run)


async def _enter(request: Request, service: Service) -> tuple[ChatRequest, Place]:
    """The request and its place among those that run; who is refused keeps none."""
    place = service.admission.enter()
    try:
        chat = await _read(request, service)
        place.grow(chat.n - 1)
    except BaseException:
        place.leave()
        raise
    return chat, place


async def _read(request: Request, service: Service) -> ChatRequest:
    config = service.config
    body = await read_body(
        request, max_bytes=config.max_body_bytes, timeout_s=config.body_timeout_s
    )
    is_large = len(body) > LARGE_BODY
    row = await service.in_thread(lambda: parse_json(body)) if is_large else parse_json(body)
    rollout = service.agent.config.rollout
    return ChatRequest.read(row, rollout=rollout, serve=config, name=service.name)


async def _whole(request: Request, run: ChatRun) -> Response:
    """Waits for every choice, or for the client to go away."""
    reading = asyncio.ensure_future(_drain(run.rows()))
    if not await _is_read(reading, request, run):
        return Response(status_code=CLIENT_CLOSED)
    reading.result()
    choices = [choice.whole_row() for choice in run.choices]
    return JSONResponse(run.head.completion(choices, usage(run.trajectories())))


async def _drain(rows: AsyncIterator[Json]) -> None:
    async for _ in rows:
        pass


async def _is_read(reading: asyncio.Future[Any], request: Request, run: ChatRun) -> bool:
    """Waits for it, or for the client to go away: then it is False, and the run is cancelled."""
    leaving = asyncio.ensure_future(_left(request.receive))
    try:
        await asyncio.wait({reading, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            run.cancel()
        return reading.done()
    finally:
        reading.cancel()
        leaving.cancel()


async def _left(receive: Receive) -> None:
    """Returns when the client is gone; its request has been read before."""
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream:
    """A stream of server-sent events that stops its run when the client leaves.

    Nothing is sent before the first choice: what goes wrong until then has a status of its own.

    Example:
        response = await EventStream.open(request, run)
        await response(scope, receive, send)
    """

    status_code = 200

    def __init__(self, run: ChatRun, rows: AsyncIterator[Json], first: Json) -> None:
        self._run, self._rows, self._first = run, rows, first

    @classmethod
    async def open(cls, request: Request, run: ChatRun) -> EventStream | Response:
        rows = run.rows()
        reading = asyncio.ensure_future(anext(rows))
        if not await _is_read(reading, request, run):
            return Response(status_code=CLIENT_CLOSED)
        return cls(run, rows, reading.result())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            self._run.cancel()
            sending.cancel()
            leaving.cancel()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [*EVENTS]})
        async for data in self._events():
            event = f"data: {data}\n\n".encode()
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self) -> AsyncIterator[str]:
        run = self._run
        try:
            yield self._chunk([self._first])
            async for row in self._rows:
                yield self._chunk([row])
        except ApiError as error:
            # The status is sent: the error is an event, and no [DONE] follows.
            yield _dump(error.to_json())
            return
        for choice in run.choices:
            yield self._chunk([choice.last_row()])
        if run.chat.include_usage:
            yield self._chunk([], usage=usage(run.trajectories()))
        yield "[DONE]"

    def _chunk(self, rows: list[Json], *, usage: Json | None = None) -> str:
        include = self._run.chat.include_usage
        return _dump(self._run.head.chunk(rows, include_usage=include, usage=usage))


def _dump(row: Json) -> str:
    """ASCII: clients that split lines as Python does would cut an event at U+2028 or U+0085."""
    return json.dumps(row, separators=(",", ":"), allow_nan=False)
