"""The server under load: many clients at once, over HTTP, against a process of its own.

Every request is a stream with a seed; some show a picture that nobody sent before. What a client
waits for its first token, between two, and for its last, what goes wrong, what the server's memory
does, and whether a client among many gets what it gets alone.

    python bench/serve.py --quick
    python bench/serve.py --requests 2000 --clients 64
    python bench/serve.py --prefill-tokens 256
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

if __name__ == "__main__":
    import rooted  # noqa: F401

import httpx

from bench.flags import add_seed
from bench.harness import (
    Check,
    Goal,
    Options,
    Report,
    Timing,
    finish,
    parse_options,
    progress_bar,
    rich_table,
)
from bench.process import slope_mb
from bench.scenes import Scene, fresh, scene, scene_names
from bench.serve_process import resident_mb, server_process

ARMS = ("ours", "one at a time")
REQUESTS, QUICK_REQUESTS = 2000, 96
CLIENTS, QUICK_CLIENTS = 64, 16
POLICY, QUICK_POLICY = "bench-36m", "unit"
COMPARED, QUICK_COMPARED = 48, 24
"""Requests that one client also makes alone."""
MAX_FLIPS = 1
"""Compared answers that may differ: a sum in another order can turn one draw."""
PICTURES, FRESH = 0.5, 0.2
"""Shares of requests with a picture, and with one that nobody sent before."""
MAX_SLOPE_MB = 2.0
"""Of the server's resident memory per 1,000 requests."""
PATIENCE_S = 300.0
WAITS = {"first token": "ttft_ms", "longest pause": "pause_ms", "end to end": "total_ms"}
PATH = "/v1/chat/completions"
COMPLETIONS = "pixelis_completions_total{"
TIMED_OUT = COMPLETIONS + 'status="truncated_max_time"}'
QUESTIONS = (
    "What does the sign say?",
    "How many objects are there?",
    "Describe what you see in one sentence.",
    "Which colour is the largest object?",
)


@dataclass(frozen=True)
class Ask:
    """One request's body."""

    kind: str
    body: bytes


@dataclass
class Answer:
    """What a client saw."""

    ttft_ms: float
    total_ms: float
    pause_ms: float
    """The longest between two pieces of the stream."""
    text: str
    """Content and reasoning, to compare."""
    tokens: int
    error: str | None = None


@dataclass
class Memory:
    """The server's resident memory as requests end."""

    requests: list[int] = field(default_factory=list)
    resident_mb: list[float] = field(default_factory=list)

    def slope_mb(self) -> float:
        return slope_mb(self.requests, self.resident_mb)


def draw_asks(rng: random.Random, *, model: str, count: int) -> list[Ask]:
    """Bodies in the order in which clients take them."""
    pictures = [each for each in map(scene, scene_names()) if each.kind == "image"]
    return [_draw(rng, pictures, number, model=model) for number in range(count)]


def _draw(rng: random.Random, pictures: Sequence[Scene], number: int, *, model: str) -> Ask:
    content: list[dict] = [{"type": "text", "text": rng.choice(QUESTIONS)}]
    kind, share = "text", rng.random()
    if share < PICTURES:
        shown = rng.choice(pictures)
        kind = "picture"
        if share < FRESH:
            kind, shown = "fresh picture", fresh(shown, number)
        encoded = base64.b64encode(shown.encoded).decode()
        suffix = shown.suffix.removeprefix(".").replace("jpg", "jpeg")
        url = f"data:image/{suffix};base64,{encoded}"
        content.insert(0, {"type": "image_url", "image_url": {"url": url}})
    row = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "seed": number,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return Ask(kind, json.dumps(row).encode())


class Reading:
    """One stream while it is read."""

    def __init__(self) -> None:
        self.start_s = time.perf_counter()
        self.first_s: float | None = None
        self.last_s = self.start_s
        self.pause_s = 0.0
        self.text: list[str] = []
        self.tokens = 0
        self.is_done = False
        self.error: str | None = None

    def take(self, line: str) -> None:
        if not line:
            return
        now_s = time.perf_counter()
        if self.first_s is None:
            self.first_s = now_s
        else:
            self.pause_s = max(self.pause_s, now_s - self.last_s)
        self.last_s = now_s
        data = line.removeprefix("data: ")
        if data == "[DONE]":
            self.is_done = True
            return
        chunk = json.loads(data)
        if "error" in chunk:
            self.error = json.dumps(chunk["error"])
        self.tokens = (chunk.get("usage") or {}).get("completion_tokens", self.tokens)
        for choice in chunk.get("choices", []):
            delta = choice["delta"]
            self.text.append(delta.get("reasoning_content", "") + (delta.get("content") or ""))

    def answer(self) -> Answer:
        end_s = time.perf_counter()
        error = self.error
        if error is None and not (self.is_done and self.tokens):
            error = f"expected a whole stream with usage, got {self.tokens} tokens"
        first_ms = 1e3 * ((self.first_s or end_s) - self.start_s)
        total_ms = 1e3 * (end_s - self.start_s)
        pause_ms = 1e3 * self.pause_s
        return Answer(first_ms, total_ms, pause_ms, "".join(self.text), self.tokens, error)


async def ask(client: httpx.AsyncClient, asked: Ask) -> Answer:
    """Sends one request and reads its stream; whatever goes wrong is the answer's error."""
    reading = Reading()
    headers = {"content-type": "application/json"}
    try:
        async with client.stream("POST", PATH, content=asked.body, headers=headers) as stream:
            if stream.status_code != 200:
                reading.error = f"{stream.status_code}: {(await stream.aread()).decode()[:200]}"
                return reading.answer()
            async for line in stream.aiter_lines():
                reading.take(line)
    except httpx.HTTPError as failure:
        reading.error = f"{type(failure).__name__}: {failure}"
    return reading.answer()


async def load(
    url: str, asks: Sequence[Ask], *, clients: int, process_id: int
) -> tuple[list[Answer], Memory, float]:
    """The answers in order, the server's memory, and the seconds it took."""
    answers: dict[int, Answer] = {}
    memory, numbers = Memory(), iter(range(len(asks)))

    async def work(client: httpx.AsyncClient) -> None:
        for number in numbers:
            answers[number] = await ask(client, asks[number])
            memory.requests.append(len(answers))
            memory.resident_mb.append(resident_mb(process_id))
            bar.update(task, completed=len(answers))

    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    start_s = time.perf_counter()
    with progress_bar() as bar:
        task = bar.add_task(f"{clients} clients", total=len(asks))
        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=PATIENCE_S) as client:
            await asyncio.gather(*(work(client) for _ in range(clients)))
    seconds = time.perf_counter() - start_s
    return [answers[number] for number in range(len(asks))], memory, seconds


def wait_until_well(url: str) -> None:
    """Until the server listens; its port is open before it is ready."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        try:
            if httpx.get(f"{url}/health", timeout=PATIENCE_S).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise RuntimeError(f"server: expected it well within {PATIENCE_S:g} s")


def counters(url: str) -> dict[str, float]:
    """The server's own metrics by name and labels."""
    lines = httpx.get(f"{url}/metrics", timeout=PATIENCE_S).text.splitlines()
    rows = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in rows}


def timings_of(asks: Sequence[Ask], arms: dict[str, Sequence[Answer]]) -> list[Timing]:
    timings = []
    for kind in ("text", "picture", "fresh picture", "all"):
        for arm, answers in arms.items():
            pairs = zip(asks, answers, strict=False)
            chosen = [a for each, a in pairs if kind in (each.kind, "all") and a.error is None]
            if chosen:
                for what, name in WAITS.items():
                    waited = tuple(getattr(answer, name) for answer in chosen)
                    timings.append(Timing(f"{what}, {kind}", arm, waited))
    return timings


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--requests", type=int, help=f"{REQUESTS}, or {QUICK_REQUESTS} quick")
    parser.add_argument("--clients", type=int, help=f"{CLIENTS}, or {QUICK_CLIENTS} quick")
    parser.add_argument("--policy", help=f"{POLICY}, or {QUICK_POLICY} quick")
    parser.add_argument(
        "--prefill-tokens", type=int, default=0, help="of one forward at most; 0 bounds nothing"
    )
    add_seed(parser)


def measure(options: Options) -> Report:
    quick, extra = options.quick, options.extra
    policy = extra.policy or (QUICK_POLICY if quick else POLICY)
    count = extra.requests or (QUICK_REQUESTS if quick else REQUESTS)
    clients = extra.clients or (QUICK_CLIENTS if quick else CLIENTS)
    asks = draw_asks(random.Random(extra.seed), model=policy, count=count)
    compared = min(count, QUICK_COMPARED if quick else COMPARED)
    with server_process(policy, prefill_tokens=extra.prefill_tokens) as (process, url):
        wait_until_well(url)
        alone, _, alone_s = asyncio.run(
            load(url, asks[:compared], clients=1, process_id=process.pid)
        )
        answers, memory, seconds = asyncio.run(
            load(url, asks, clients=clients, process_id=process.pid)
        )
        counted = counters(url)
    report = Report("serve", options, ours="ours", baseline={"time per request": "one at a time"})
    report.timings = timings_of(asks, {"ours": answers, "one at a time": alone})
    report.timings += [
        Timing("time per request", "ours", (1e3 * seconds / count,)),
        Timing("time per request", "one at a time", (1e3 * alone_s / compared,)),
    ]
    errors = [a.error for a in (*alone, *answers) if a.error is not None]
    pairs = zip(alone, answers, strict=False)
    flips = sum(one.text != other.text for one, other in pairs)
    made = sum(a.tokens for a in (*alone, *answers))
    report.checks = [
        Check.same("time per request", "errors", errors[:3], []),
        Check.same("time per request", "answers", len(answers), count),
        Check.at_most("time per request", f"unequal answers of {compared}", flips, MAX_FLIPS),
        Check.same(
            "time per request",
            "completions that the server counted",
            sum(int(v) for name, v in counted.items() if name.startswith(COMPLETIONS)),
            count + compared,
        ),
        Check.same(
            "time per request",
            "completions cut short by their time",
            int(counted.get(TIMED_OUT, 0)),
            0,
        ),
        Check.same(
            "time per request",
            "tokens that the server counted",
            int(counted['gen_ai_client_token_usage_sum{gen_ai_token_type="output"}']),
            made,
        ),
    ]
    slope = round(memory.slope_mb(), 2)
    report.goals = [Goal.at_most("errors", 0, len(errors))]
    if not quick:
        report.goals.append(
            Goal.at_most("memory of the server, MB per 1,000 requests", MAX_SLOPE_MB, slope)
        )
    add_extra(report, answers, memory, counted, seconds=seconds, clients=clients, policy=policy)
    return report


def add_extra(
    report: Report,
    answers: Sequence[Answer],
    memory: Memory,
    counted: dict[str, float],
    *,
    seconds: float,
    clients: int,
    policy: str,
) -> None:
    step = max(len(memory.requests) // 20, 1)
    bound = report.options.extra.prefill_tokens
    report.extra = {
        "variant": f"prefill-{bound}" if bound else "",
        "policy": policy,
        "clients": clients,
        "requests_per_second": round(len(answers) / seconds, 2),
        "tokens_per_second": round(sum(a.tokens for a in answers) / seconds, 1),
        "slope_mb_per_1000": round(memory.slope_mb(), 2),
        "resident_mb": [round(value, 1) for value in memory.resident_mb[::step]],
        "server": {name: counted[name] for name in sorted(counted) if name.startswith("pixelis_")},
    }
    shown = ("requests_per_second", "tokens_per_second", "slope_mb_per_1000")
    rows = [[key, f"{report.extra[key]}"] for key in shown]
    report.tables.append(rich_table({"title": "serve", "columns": ["what", "value"], "rows": rows}))
    report.notes.append(f"clients and server share this machine; {policy} has random weights")


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(__doc__, arms=ARMS, add=add_flags, argv=argv)
    return finish(measure(options), options)


if __name__ == "__main__":
    sys.exit(main())
