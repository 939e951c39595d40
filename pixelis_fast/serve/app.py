"""The routes, the answers to what goes wrong, and the server's life from start to stop."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pixelis_fast.agent import Agent
from pixelis_fast.serve import pages
from pixelis_fast.serve.chat import chat_completions
from pixelis_fast.serve.config import ServeConfig
from pixelis_fast.serve.errors import ApiError, broken
from pixelis_fast.serve.service import Service
from pixelis_fast.serve.telemetry import flush

LOG = logging.getLogger(__name__)
Beside = Callable[[Service], AbstractContextManager[Any]]
"""What runs beside the server (learning.py)."""
GUARDED = "/v1/"
"""Paths that ask for the key; a trace's own id is what opens it."""
ROUTES = [
    Route("/v1/chat/completions", chat_completions, methods=["POST"]),
    Route("/v1/models", pages.models),
    Route("/v1/models/{name:path}", pages.model),
    Route("/health", pages.health),
    Route("/metrics", pages.metrics),
    Route("/trace/{trace_id}", pages.trace_page),
    Route("/trace/{trace_id}/trace.json", pages.trace_json),
    Route("/trace/{trace_id}/picture/{number:int}", pages.trace_picture),
    Route("/viewer/{name}", pages.viewer_file),
]


def make_app(agent: Agent, config: ServeConfig, *, beside: Beside | None = None) -> Starlette:
    """An ASGI application that starts the agent's loop with itself and stops with it.

    `beside` is entered when the loop runs and left when the requests have ended.

    Example:
        uvicorn.run(make_app(build_agent(AgentConfig()), ServeConfig()))
    """
    service = Service(agent, config)

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        service.loop.start()
        try:
            with nullcontext() if beside is None else beside(service):
                yield
                await service.drain()
        finally:
            service.loop.close()
            service.close()
            flush()

    app = Starlette(
        routes=ROUTES,
        lifespan=life,
        middleware=[Middleware(Gate, service=service)],
        exception_handlers={
            ApiError: answer_api_error,
            HTTPException: answer_http_error,
            Exception: answer_any_error,
        },
    )
    app.state.service, app.state.started_s = service, int(time.time())
    return app


class Gate:
    """Asks for the key, and counts answers by status."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._service.metrics.requests.labels(str(message["status"])).inc()
            await send(message)

        if scope["path"].startswith(GUARDED) and not self._has_key(Request(scope)):
            error = ApiError(
                "authorization: expected the server's key as a bearer token",
                status=401,
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
            await _answer(error)(scope, receive, counted)
            return
        await self._app(scope, receive, counted)

    def _has_key(self, request: Request) -> bool:
        key = self._service.config.api_key
        given = request.headers.get("authorization", "")
        return key is None or hmac.compare_digest(given.encode(), f"Bearer {key}".encode())


def _answer(error: ApiError) -> JSONResponse:
    return JSONResponse(error.to_json(), status_code=error.status, headers=error.headers)


async def answer_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _answer(error)


async def answer_http_error(request: Request, error: Exception) -> Response:
    """A path or method that is not there."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    return _answer(ApiError(message, status=error.status_code, headers=dict(error.headers or {})))


async def answer_any_error(request: Request, error: Exception) -> Response:
    LOG.error("%s %s: expected an answer", request.method, request.url.path, exc_info=error)
    return _answer(broken(f"server: expected an answer, got {type(error).__name__}"))
