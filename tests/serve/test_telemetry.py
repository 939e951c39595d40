"""Spans of requests and tools, as OpenTelemetry's own exporter gets them."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pixelis_fast.loop import QueueFullError
from pixelis_fast.serve import telemetry
from tests.serve.running import MODEL

ROOT = Path(__file__).parents[2]
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


BODY = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}


def full(request, **options):
    raise QueueFullError("queue: full")


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"n": 0}, 400, "n: expected"),
        ({"n": 8}, 429, "expected at most 4 completions"),
        ({"messages": [{"role": "user", "content": "word " * 40_000}]}, 400, "expected at most"),
        ({"user": "full"}, 429, "queue: full"),
    ],
    ids=["unreadable", "no place", "too long", "full queue"],
)
def test_a_refused_request_is_a_span_too(server, exporter, monkeypatch, change, status, message):
    exporter.clear()
    monkeypatch.setattr(server.service.admission, "_max_requests", 4)
    if change == {"user": "full"}:
        monkeypatch.setattr(server.agent.loop, "submit", full)
    response = httpx.post(
        f"{server.url}/v1/chat/completions",
        json=BODY | change,
        headers={"traceparent": PARENT},
        timeout=60,
    )
    assert response.status_code == status
    [span] = exporter.get_finished_spans()
    assert span.name == "invoke_agent"
    assert span.attributes["http.response.status_code"] == status
    assert "gen_ai.response.id" not in span.attributes
    assert span.status.status_code is trace.StatusCode.ERROR
    assert message in span.status.description
    assert f"{span.parent.span_id:016x}" == PARENT.split("-")[2]


ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
COLLECTED = """
import sys, types
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.testclient import TestClient
exporter = InMemorySpanExporter()
package = types.ModuleType("opentelemetry.exporter.otlp.proto.http.trace_exporter")
package.OTLPSpanExporter = lambda: exporter
for parts in range(2, 7):
    name = ".".join(package.__name__.split(".")[:parts])
    sys.modules[name] = package
from pixelis_fast.serve import server
from pixelis_fast.serve.app import make_app
from pixelis_fast.serve.config import ServeConfig
from tests.serve.running import make_agent

class Served:
    def __init__(self, *arguments, **options): pass
    def run(self, sockets):
        with TestClient(make_app(make_agent(), ServeConfig())) as client:
            client.post("/v1/chat/completions", json={})
        print(*[span.name for span in exporter.get_finished_spans()])

server.make_server = Served
server.serve(None, ServeConfig(), None)
"""


@pytest.mark.parametrize(("variables", "told"), [({ENDPOINT: "http://collector"}, 1), ({}, 0)])
def test_an_endpoint_in_the_environment_is_enough(monkeypatch, variables, told):
    """Sent by the end of the server's life, not by the end of the process: a signal leaves none."""
    for name in (*telemetry.ENDPOINTS, *telemetry.PROTOCOLS):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = subprocess.run(
        [sys.executable, "-c", COLLECTED], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == ["invoke_agent"] * told


def test_an_endpoint_that_cannot_be_served_is_an_error(monkeypatch):
    monkeypatch.setenv(ENDPOINT, "http://collector")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ValueError, match=f"{ENDPOINT}: expected the package opentelemetry"):
        telemetry.start_exporting()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(ValueError, match="PROTOCOL: expected http/protobuf, got grpc"):
        telemetry.start_exporting()
