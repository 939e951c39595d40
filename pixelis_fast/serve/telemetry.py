"""OpenTelemetry spans of requests and tool calls, where opentelemetry is installed.

Where spans go is what OTEL_EXPORTER_OTLP_ENDPOINT and the SDK's other variables say, or a provider
that the process has set up itself; without either they go nowhere. Without the package nothing is
recorded, and `TELEMETRY_REASON` says so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

HAS_TELEMETRY = find_spec("opentelemetry") is not None
TELEMETRY_REASON = (
    "opentelemetry is installed"
    if HAS_TELEMETRY
    else "no opentelemetry: pip install 'pixelis-fast[otel]'"
)
NAME = "pixelis_fast.serve"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"
FLUSH_MS = 5000
"""A collector that does not answer may hold up the server's end for so long."""


@dataclass(frozen=True)
class ToolSpan:
    """One tool call of a request; nanoseconds since the epoch."""

    tool: str
    start_ns: int
    end_ns: int
    error: str | None


def start_exporting() -> None:
    """Sends spans to the collector that the variables name, over HTTP; nothing where none is named.

    ValueError where one is that takes another protocol, or the packages that send are missing. Once
    per process; a provider that is set already stays.
    """
    named = _first_set(ENDPOINTS)
    if named is None:
        return
    spoken = _first_set(PROTOCOLS)
    if spoken is not None and os.environ[spoken] != PROTOCOL:
        raise ValueError(f"{spoken}: expected {PROTOCOL}, got {os.environ[spoken]}")
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{named}: expected the package {error.name}, got none; "
            "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
        ) from error
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        return
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def _first_set(names: Sequence[str]) -> str | None:
    return next((name for name in names if os.environ.get(name)), None)


def flush() -> None:
    """Sends what waits: a signal that ends the process may leave no later moment."""
    if not HAS_TELEMETRY:
        return
    from opentelemetry import trace

    # The API's own provider, in place where nobody exports, has nothing to send.
    send = getattr(trace.get_tracer_provider(), "force_flush", None)
    if send is not None:
        send(FLUSH_MS)


def record_request(
    headers: Mapping[str, str],
    *,
    start_ns: int,
    end_ns: int,
    attributes: Mapping[str, Any],
    tools: Sequence[ToolSpan],
    error: str | None,
) -> None:
    """One span for the request, under the caller's if its headers name one, one for each tool."""
    if not HAS_TELEMETRY:
        return
    from opentelemetry import propagate, trace

    tracer = trace.get_tracer(NAME)
    parent = propagate.extract(dict(headers))
    request = tracer.start_span(
        "invoke_agent",
        context=parent,
        kind=trace.SpanKind.SERVER,
        attributes=dict(attributes),
        start_time=start_ns,
    )
    inside = trace.set_span_in_context(request, parent)
    for tool in tools:
        span = tracer.start_span(
            f"execute_tool {tool.tool}",
            context=inside,
            attributes={
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": tool.tool,
            },
            start_time=tool.start_ns,
        )
        _end(span, tool.error, tool.end_ns)
    _end(request, error, end_ns)


def _end(span: Any, error: str | None, end_ns: int) -> None:
    if error is not None:
        from opentelemetry.trace import Status, StatusCode

        span.set_status(Status(StatusCode.ERROR, error))
    span.end(end_time=end_ns)
