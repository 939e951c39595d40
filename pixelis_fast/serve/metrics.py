"""Prometheus metrics: the gen_ai names of OpenTelemetry, and the loop's own under pixelis_.

Counters of loop, engine and tools are read when somebody scrapes; nothing is counted twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)
CALLS = (0, 1, 2, 3, 4, 6, 8, 12, 16)
NOW = frozenset({"running", "waiting_for_tools", "queued", "evicted_now"})
NOW_ENDINGS = ("bytes", "sessions", "entries")
"""Names of numbers that go up and down; all others of loop, engine and tools only grow."""


class Metrics:
    """One server's metrics in a registry of their own.

    Example:
        metrics = Metrics(model="bench-36m", stats={"loop": loop.stats})
        metrics.time_to_first_token.observe(0.2)
        metrics.text()
    """

    def __init__(self, *, model: str, stats: Mapping[str, Callable[[], Any]]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Stats(stats))
        self.time_to_first_token = self._histogram(
            "gen_ai_server_time_to_first_token_seconds", "Arrival to the first token", SECONDS
        )
        self.request_duration = self._histogram(
            "gen_ai_server_request_duration_seconds", "Arrival to the whole answer", SECONDS
        )
        self.tool_duration = self._histogram(
            "gen_ai_execute_tool_duration_seconds", "One tool call", SECONDS, "gen_ai_tool_name"
        )
        self.tool_calls = self._histogram(
            "gen_ai_invoke_agent_tool_calls", "Tool calls of one completion", CALLS
        )
        self.tokens = self._histogram(
            "gen_ai_client_token_usage", "Tokens of one request", TOKENS, "gen_ai_token_type"
        )
        self.requests = self._counter("pixelis_requests", "Answered requests", "code")
        self.finished = self._counter("pixelis_completions", "Ended completions", "status")
        self.invalid_calls = self._counter("pixelis_invalid_calls", "Calls no tool could take")
        self.kept_traces = self._gauge("pixelis_traces", "Traces kept")
        self.trace_bytes = self._gauge("pixelis_trace_bytes", "What kept traces take")
        self.media = self._gauge("pixelis_media", "Clients' pictures and videos held")
        Gauge("pixelis_model", "The model served", ["model"], registry=self.registry).labels(
            model
        ).set(1)

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)

    def _histogram(
        self, name: str, about: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(name, about, labels, buckets=buckets, registry=self.registry)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(name, about, labels, registry=self.registry)

    def _gauge(self, name: str, about: str) -> Gauge:
        return Gauge(name, about, registry=self.registry)


class _Stats(Collector):
    """Numbers of other parts' own dataclasses, by the names of their fields."""

    def __init__(self, stats: Mapping[str, Callable[[], Any]]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        for part, read in self._stats.items():
            for name, value in _numbers(read()):
                full = f"pixelis_{part}_{name}"
                if name in NOW or name.endswith(NOW_ENDINGS):
                    yield GaugeMetricFamily(full, f"{name} of the {part}", value=value)
                else:
                    yield CounterMetricFamily(full, f"{name} of the {part}", value=value)


def _numbers(stats: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a dataclass or mapping, nested ones under their path."""
    row = asdict(stats) if is_dataclass(stats) and not isinstance(stats, type) else stats
    for name, value in row.items():
        path = f"{prefix}{name}".replace(".", "_").replace("-", "_")
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{path}_")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield path, value
