"""Spans of requests and tools, as OpenTelemetry's own exporter gets them."""

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pixelis_fast.serve import telemetry
from tests.serve.running import MODEL

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
MASK = '<tool_call>\n{"name":"properties","arguments":{"mask":0}}\n</tool_call>'


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


def test_a_request_and_its_tools_are_spans(server, exporter):
    server.script(MASK, "<answer>so</answer>")
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
    response = httpx.post(
        f"{server.url}/v1/chat/completions", json=body, headers={"traceparent": PARENT}, timeout=60
    )
    tool, request = exporter.get_finished_spans()
    assert (request.name, request.kind) == ("invoke_agent", trace.SpanKind.SERVER)
    assert request.attributes["gen_ai.request.model"] == MODEL
    assert request.attributes["gen_ai.response.id"] == response.json()["id"]
    assert f"{request.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{request.parent.span_id:016x}" == PARENT.split("-")[2]
    assert tool.name == "execute_tool properties"
    assert tool.attributes["gen_ai.tool.name"] == "properties"
    assert tool.parent.span_id == request.context.span_id
    assert request.start_time <= tool.start_time <= tool.end_time <= request.end_time
    assert tool.status.status_code is trace.StatusCode.ERROR
    assert "mask: expected one from segment" in tool.status.description


def test_without_the_package_nothing_is_recorded(server, exporter, monkeypatch):
    monkeypatch.setattr(telemetry, "HAS_TELEMETRY", False)
    exporter.clear()
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    assert httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).is_success
    assert exporter.get_finished_spans() == ()
