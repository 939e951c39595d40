"""Runs the application in a real server, until it is told to stop."""

from __future__ import annotations

import socket

import uvicorn

from pixelis_fast.agent import Agent
from pixelis_fast.serve.app import Beside, make_app
from pixelis_fast.serve.config import ServeConfig
from pixelis_fast.serve.telemetry import start_exporting

BACKLOG = 2048
KEEP_ALIVE_S = 30


def bind(config: ServeConfig) -> socket.socket:
    """The listening socket; ValueError when the address is taken."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((config.host, config.port))
    except OSError as error:
        listening.close()
        raise ValueError(
            f"port: expected a free address, got {config.host}:{config.port} ({error.strerror})"
        ) from error
    return listening


def make_server(
    agent: Agent, config: ServeConfig, *, beside: Beside | None = None
) -> uvicorn.Server:
    """A server that `run(sockets=[bind(config)])` starts; a signal stops it."""
    settings = uvicorn.Config(
        make_app(agent, config, beside=beside),
        log_level="warning",
        access_log=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(config.shutdown_s)),
        server_header=False,
        lifespan="on",
    )
    return uvicorn.Server(settings)


def serve(
    agent: Agent,
    config: ServeConfig,
    listening: socket.socket,
    *,
    beside: Beside | None = None,
) -> None:
    """Serves until SIGINT or SIGTERM; requests in flight get `shutdown_s` to end.

    ValueError where spans are to be exported and cannot be (telemetry.py).
    """
    start_exporting()
    make_server(agent, config, beside=beside).run(sockets=[listening])
