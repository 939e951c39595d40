"""OpenTelemetry spans of requests and tool calls, where opentelemetry is installed.

Where spans go is the process's own setting (opentelemetry-sdk and its OTEL_* variables); without
the package nothing is recorded, and `TELEMETRY_REASON` says so.
"""

from __future__ import annotations

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


@dataclass(frozen=True)
class ToolSpan:
    """One tool call of a request; nanoseconds since the epoch."""

    tool: str
    start_ns: int
    end_ns: int
    error: str | None


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
